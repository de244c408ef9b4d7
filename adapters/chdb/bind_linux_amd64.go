package chdb

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// library is libchdb's C interface, the calls this package uses. Strings go in
// with their lengths, so a zero byte inside one is data.
type library struct {
	connectFn     func(argc int32, argv unsafe.Pointer) *uintptr
	closeFn       func(conn *uintptr)
	queryFn       func(conn uintptr, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, params uintptr) uintptr
	streamFn      func(conn uintptr, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, params uintptr) uintptr
	fetchFn       func(conn, stream uintptr) uintptr
	cancelFn      func(conn, stream uintptr)
	destroyFn     func(result uintptr)
	bufferFn      func(result uintptr) unsafe.Pointer
	lengthFn      func(result uintptr) uintptr
	errorFn       func(result uintptr) string
	setHandlersFn func(enabled int32)

	// connecting serialises opening and closing, and guards the signal
	// handlers that opening disturbs.
	connecting sync.Mutex
	handlers   []handler
}

// loadLibrary maps the library and finds its calls; a library without one of
// them is an error.
func loadLibrary(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-ENG-002", "load the ClickHouse engine library %s: %w; %s", path, err, otherLibrary)
	}
	l := &library{}
	for name, fn := range map[string]any{
		"chdb_connect":                     &l.connectFn,
		"chdb_close_conn":                  &l.closeFn,
		"chdb_query_with_params_n":         &l.queryFn,
		"chdb_stream_query_with_params_n":  &l.streamFn,
		"chdb_stream_fetch_result":         &l.fetchFn,
		"chdb_stream_cancel_query":         &l.cancelFn,
		"chdb_destroy_query_result":        &l.destroyFn,
		"chdb_result_buffer":               &l.bufferFn,
		"chdb_result_length":               &l.lengthFn,
		"chdb_result_error":                &l.errorFn,
		"chdb_set_signal_handlers_enabled": &l.setHandlersFn,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, errs.New(errs.Invalid, "LS-ENG-002", "find %s in the ClickHouse engine library %s: %w; the library is of another version, `make engine` fetches %s", name, path, err, Version)
		}
		purego.RegisterFunc(fn, symbol)
	}
	// Turning the engine's handlers off also resets the process's own to the
	// default, and so does every later connect. Go's are kept and put back, so
	// that a crash still prints where it happened.
	l.handlers = saveHandlers()
	l.setHandlersFn(0)
	restoreHandlers(l.handlers)
	return l, nil
}

// connection is one session of the engine. It runs one statement at a time and
// is not safe for concurrent use.
type connection struct {
	lib    *library
	handle *uintptr
}

// arguments start an engine that leaves room for the server beside it. It was
// made for machines of its own, where it may take nine tenths of the memory:
//
//   - at work its statements take two fifths of the machine's or the container's
//     memory, and the one that wants more ends; with what the allocator holds back
//     that has been three fifths;
//   - its caches of marks and of primary indexes, 5 GiB each, are enough for a
//     billion rows with less;
//   - threads that have nothing to do end, with their stacks and memory pools.
func arguments(path string) []string {
	return []string{
		"clickhouse",
		"--path=" + path,
		"--max_server_memory_usage_to_ram_ratio=0.4",
		"--mark_cache_size=67108864",
		"--index_mark_cache_size=67108864",
		"--primary_index_cache_size=67108864",
		"--max_thread_pool_free_size=8",
	}
}

// connect opens a session on the data in path. The first one in a process
// starts the engine; all must name the same path.
func (l *library) connect(path string) (*connection, error) {
	l.connecting.Lock()
	defer l.connecting.Unlock()
	args := arguments(path)
	for i := range args {
		args[i] += "\x00"
	}
	argv := make([]*byte, 0, len(args)+1)
	for _, a := range args {
		argv = append(argv, unsafe.StringData(a))
	}
	argv = append(argv, nil)
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, a := range argv[:len(args)] {
		pin.Pin(a)
	}
	handle := l.connectFn(int32(len(args)), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(args)
	restoreHandlers(l.handlers)
	if handle == nil {
		return nil, errs.New(errs.Internal, "LS-ENG-012", "open the ClickHouse engine's data in %s: the library gave no reason; look for damaged files, a full disk or missing rights there", path)
	}
	return &connection{lib: l, handle: handle}, nil
}

func (c *connection) close() {
	c.lib.connecting.Lock()
	defer c.lib.connecting.Unlock()
	c.lib.closeFn(c.handle)
	restoreHandlers(c.lib.handlers)
}

// parameters are the values of a statement's {name:Type} places, in
// ClickHouse's escaped text form.
type parameters map[string]string

// vectors lays the parameters out as the library wants them: four arrays of
// one length. They must be kept until the call has returned, hence pin.
func (p parameters) vectors(pin *runtime.Pinner) (names, nameLens, values, valueLens unsafe.Pointer, count uintptr) {
	if len(p) == 0 {
		return nil, nil, nil, nil, 0
	}
	var (
		ns, vs []*byte
		nl, vl []uintptr
	)
	for name, value := range p {
		// A zero byte after each keeps an empty string's pointer valid.
		n, v := append([]byte(name), 0), append([]byte(value), 0)
		pin.Pin(&n[0])
		pin.Pin(&v[0])
		ns, nl = append(ns, &n[0]), append(nl, uintptr(len(name)))
		vs, vl = append(vs, &v[0]), append(vl, uintptr(len(value)))
	}
	pin.Pin(&ns[0])
	pin.Pin(&nl[0])
	pin.Pin(&vs[0])
	pin.Pin(&vl[0])
	return unsafe.Pointer(&ns[0]), unsafe.Pointer(&nl[0]), unsafe.Pointer(&vs[0]), unsafe.Pointer(&vl[0]), uintptr(len(p))
}

const native = "Native"

// query runs a statement to its end and returns its whole result in Native.
func (c *connection) query(sql string, params parameters) ([]byte, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	names, nameLens, values, valueLens, count := params.vectors(&pin)
	result := c.lib.queryFn(*c.handle, unsafe.StringData(sql), uintptr(len(sql)), unsafe.StringData(native), uintptr(len(native)), names, nameLens, values, valueLens, count)
	return c.lib.take(result)
}

// stream is a SELECT whose result comes in pieces.
type stream struct {
	conn   *connection
	handle uintptr
	ended  bool
}

// stream begins a SELECT. The caller calls close, whatever next said.
func (c *connection) stream(sql string, params parameters) (*stream, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	names, nameLens, values, valueLens, count := params.vectors(&pin)
	handle := c.lib.streamFn(*c.handle, unsafe.StringData(sql), uintptr(len(sql)), unsafe.StringData(native), uintptr(len(native)), names, nameLens, values, valueLens, count)
	if handle == 0 {
		return nil, errNoResult
	}
	if text := c.lib.errorFn(handle); text != "" {
		c.lib.destroyFn(handle)
		return nil, exception(text)
	}
	return &stream{conn: c, handle: handle}, nil
}

// next returns the following piece, whole Native blocks, or nil at the end.
func (s *stream) next() ([]byte, error) {
	if s.ended {
		return nil, nil
	}
	piece, err := s.conn.lib.take(s.conn.lib.fetchFn(*s.conn.handle, s.handle))
	if err != nil || len(piece) == 0 {
		s.ended = true
	}
	return piece, err
}

func (s *stream) close() {
	if !s.ended {
		s.conn.lib.cancelFn(*s.conn.handle, s.handle)
	}
	s.conn.lib.destroyFn(s.handle)
}

// take copies a result out of the library's memory and frees it there.
func (l *library) take(result uintptr) ([]byte, error) {
	if result == 0 {
		return nil, errNoResult
	}
	defer l.destroyFn(result)
	if text := l.errorFn(result); text != "" {
		return nil, exception(text)
	}
	n := l.lengthFn(result)
	if n == 0 {
		return nil, nil
	}
	out := make([]byte, n)
	copy(out, unsafe.Slice((*byte)(l.bufferFn(result)), n))
	return out, nil
}

var errNoResult = errors.New("the ClickHouse engine returned no result and no error")

// exception is the engine's own error text: "Code: N. DB::Exception: …".
type exception string

func (e exception) Error() string { return string(e) }

// disturbed are the signals whose handlers the library resets.
func disturbed() []unix.Signal {
	return []unix.Signal{unix.SIGABRT, unix.SIGSEGV, unix.SIGILL, unix.SIGBUS, unix.SIGSYS, unix.SIGFPE, unix.SIGTSTP, unix.SIGTRAP}
}

// handler is the kernel's record of one signal's handler: handler, flags,
// restorer and mask, eight bytes each (rt_sigaction(2) on amd64).
type handler struct {
	signal unix.Signal
	action [32]byte
}

func saveHandlers() []handler {
	var all []handler
	for _, s := range disturbed() {
		h := handler{signal: s}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&h.action[0])), 8, 0, 0); errno == 0 {
			all = append(all, h)
		}
	}
	return all
}

// restoreHandlers puts back what saveHandlers saw. It cannot fail: the records
// came from the kernel.
func restoreHandlers(all []handler) {
	for i := range all {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(all[i].signal), uintptr(unsafe.Pointer(&all[i].action[0])), 0, 8, 0, 0)
	}
}
