package chdb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxStatement bounds a statement's text, in bytes.
const maxStatement = 16 << 20

// Error codes of ClickHouse that this handler itself answers with.
const (
	codeBadArguments   = 36
	codeNotImplemented = 48
	codeTooLarge       = 229
	codeUnknown        = 1002
)

// httpHandler answers ClickHouse's HTTP interface as far as its Go client uses it:
//
//   - GET /ping and GET / say "Ok.";
//   - POST / runs the statement in the body, or the one in ?query= with the
//     body as an insert's data, and answers in Native;
//   - database, param_<name> and settings are URL parameters.
//
// Compression, sessions over requests and external tables are refused with
// ClickHouse's own error codes; query ids and quota keys are ignored.
type httpHandler struct {
	pool    *pool
	maxBody int64
	last    atomic.Uint64
}

func newHandler(p *pool, opts ServeOptions) http.Handler {
	h := &httpHandler{pool: p, maxBody: opts.MaxBody}
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Ok.\n") }
	mux.HandleFunc("GET /ping", ok)
	mux.HandleFunc("GET /{$}", ok)
	mux.HandleFunc("POST /{$}", h.post)
	return mux
}

// refusal is an error of this handler, not of the engine.
type refusal struct {
	code int
	text string
}

func (r refusal) Error() string {
	return fmt.Sprintf("Code: %d. DB::Exception: %s (embedded engine)", r.code, r.text)
}

// request is a POST, taken apart.
type request struct {
	session
	sql      string
	params   parameters
	revision uint64
	// data are the rows of an insert, when the statement came by URL.
	data *os.File
}

func (h *httpHandler) post(w http.ResponseWriter, r *http.Request) {
	req, err := h.read(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	if req.data != nil {
		defer req.data.Close()
	}
	m, err := h.pool.acquire(r.Context(), req.session)
	if err != nil {
		fail(w, err)
		return
	}
	defer h.pool.release(m)
	id := h.last.Add(1)
	finished := h.pool.stopOn(r.Context(), id)
	defer finished()

	verb := firstWord(req.sql)
	// What these leave behind in the connection must not reach another request.
	if verb == "SET" || verb == "USE" || temporary.MatchString(req.sql) {
		m.spoiled = true
	}
	if verb == "SELECT" || verb == "WITH" {
		h.answerSelect(r.Context(), w, m.conn, marked(id, req.sql), req)
		return
	}
	result, err := m.conn.query(marked(id, req.sql), req.params)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("X-ClickHouse-Format", native)
	w.Header().Set("Content-Length", strconv.Itoa(len(result)))
	_, _ = w.Write(result) // a client that went away has its answer: it retries
}

// answerSelect sends a result piece by piece. The status waits for the first
// piece, so an error before it is a plain error; a later one is framed into
// the body as ClickHouse does.
func (h *httpHandler) answerSelect(ctx context.Context, w http.ResponseWriter, conn *connection, sql string, req *request) {
	results, err := conn.stream(sql, req.params)
	if err != nil {
		fail(w, err)
		return
	}
	defer results.close()
	piece, err := results.next()
	if err != nil {
		fail(w, err)
		return
	}
	if req.revision > 0 && isHello(req.sql) {
		if piece, err = hello(piece); err != nil {
			fail(w, err)
			return
		}
	}
	tag := rand.Text()[:16]
	w.Header().Set("X-ClickHouse-Format", native)
	w.Header().Set("X-ClickHouse-Exception-Tag", tag)
	if len(piece) == 0 {
		w.Header().Set("Content-Length", "0")
		return
	}
	for len(piece) > 0 {
		if _, err := w.Write(piece); err != nil || ctx.Err() != nil {
			return
		}
		if piece, err = results.next(); err != nil {
			text := err.Error() + "\n"
			fmt.Fprintf(w, "\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", tag, text, len(text), tag)
			return
		}
	}
}

func (h *httpHandler) read(w http.ResponseWriter, r *http.Request) (*request, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" && enc != "none" {
		return nil, refusal{codeNotImplemented, "a request body encoded as " + enc + "; send it plain, the socket is local"}
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return nil, refusal{codeNotImplemented, "external tables"}
	}
	req := &request{session: session{database: defaultDatabase, settings: map[string]string{}}, params: parameters{}}
	if err := req.parameters(r.URL.Query()); err != nil {
		return nil, err
	}
	if req.sql == "" {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatement))
		if err != nil {
			return nil, unread("the statement", err)
		}
		req.sql = string(body)
		if strings.TrimSpace(req.sql) == "" {
			return nil, refusal{codeBadArguments, "an empty statement"}
		}
		return req, nil
	}
	if firstWord(req.sql) != "INSERT" {
		return req, nil
	}
	return req, req.attach(http.MaxBytesReader(w, r.Body, h.maxBody))
}

// attach takes an insert's data into an anonymous file in memory and lets the
// statement select from it: data inside a statement's text does not survive
// the engine's parser.
func (req *request) attach(body io.Reader) error {
	fd, err := unix.MemfdCreate("insert", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("take memory for an insert's data: %w", err)
	}
	data := os.NewFile(uintptr(fd), "insert")
	n, err := bufio.NewReaderSize(body, 256<<10).WriteTo(data)
	if err != nil {
		_ = data.Close()
		return unread("an insert's data", err)
	}
	if n == 0 {
		_ = data.Close()
		return nil // the statement carries its own rows
	}
	match := formatClause.FindStringSubmatchIndex(req.sql)
	if match == nil {
		_ = data.Close()
		return refusal{codeBadArguments, "an INSERT with data in the body must end in FORMAT <name>"}
	}
	format := req.sql[match[2]:match[3]]
	req.sql = fmt.Sprintf("%s SELECT * FROM file('/proc/%d/fd/%d', %s)", req.sql[:match[0]], os.Getpid(), fd, format)
	req.data = data
	return nil
}

// unread is the error of a body that could not be read to its end.
func unread(what string, err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refusal{codeTooLarge, fmt.Sprintf("%s has more than %d MiB; send it in parts", what, tooLarge.Limit>>20)}
	}
	return fmt.Errorf("read %s: %w", what, err)
}

var (
	formatClause = regexp.MustCompile(`(?is)\sFORMAT\s+(\w+)[\s;]*$`)
	temporary    = regexp.MustCompile(`(?is)^\s*CREATE\s+(OR\s+REPLACE\s+)?TEMPORARY\s`)
	settingName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	comment      = regexp.MustCompile(`(?s)^(\s+|--[^\n]*(\n|$)|/\*.*?\*/|\()+`)
	word         = regexp.MustCompile(`^[A-Za-z]+`)
)

// firstWord is a statement's verb in capitals, past comments and brackets.
func firstWord(sql string) string {
	return strings.ToUpper(word.FindString(sql[len(comment.FindString(sql)):]))
}

// parameters sorts the URL's parameters into what they are: the interface's
// own, values for the statement, and settings.
func (req *request) parameters(values url.Values) error {
	for name := range values {
		value := values.Get(name)
		switch name {
		case "query":
			req.sql = value
		case "database":
			if value != "" {
				req.database = value
			}
		case "client_protocol_version":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return refusal{codeBadArguments, "client_protocol_version is not a number"}
			}
			req.revision = n
		case "default_format":
			if value != native {
				return refusal{codeNotImplemented, "the default format " + strconv.Quote(value) + "; only Native is served"}
			}
		case "compress", "decompress":
			if value != "0" && value != "" {
				return refusal{codeNotImplemented, "compression; connect without it, the socket is local"}
			}
		case "session_id", "session_check", "session_timeout":
			return refusal{codeNotImplemented, "sessions over several requests"}
		case "query_id", "quota_key", "user", "password", "role", "wait_end_of_query", "buffer_size", "stacktrace":
			// No meaning here: the socket's owner is the only user, and a
			// statement that returns no rows has ended when it is answered.
		default:
			if place, ok := strings.CutPrefix(name, "param_"); ok {
				req.params[place] = value
				continue
			}
			if !settingName.MatchString(name) {
				return refusal{codeBadArguments, "the setting name " + strconv.Quote(name)}
			}
			req.settings[name] = value
		}
	}
	return nil
}

var exceptionCode = regexp.MustCompile(`^Code:\s*(\d+)\.`)

// fail answers with an error as ClickHouse does: its text and its code.
func fail(w http.ResponseWriter, err error) {
	text, code := err.Error(), strconv.Itoa(codeUnknown)
	if match := exceptionCode.FindStringSubmatch(text); match != nil {
		code = match[1]
	} else {
		text = fmt.Sprintf("Code: %d. DB::Exception: %s (embedded engine)", codeUnknown, text)
	}
	w.Header().Set("X-ClickHouse-Exception-Code", code)
	http.Error(w, text, http.StatusInternalServerError)
}

// isHello recognises the question a Go client opens a connection with.
func isHello(sql string) bool {
	return strings.TrimSpace(sql) == "SELECT displayName(), version(), revision(), timezone()"
}

// hello rewrites the answer to the client's opening question. The client reads
// that one answer in the block form of its own protocol revision, and all
// later ones in that of the revision the answer names; the engine writes
// blocks in the form of revision 0. So the block gets the newer form's extra
// fields, and says revision 0.
//
// Block forms: ClickHouse's Native format, revision 54454 and later adds a
// block info before the counts and one byte before each column's data.
func hello(block []byte) ([]byte, error) {
	in := &native0{rest: block}
	columns, rows := in.uvarint(), in.uvarint()
	if in.bad || columns != 4 || rows != 1 {
		return nil, fmt.Errorf("the engine's answer to the client's opening question has %d columns and %d rows instead of 4 and 1", columns, rows)
	}
	var out bytes.Buffer
	out.Write([]byte{1, 0})                         // field 1: no overflow rows
	out.Write([]byte{2, 0xff, 0xff, 0xff, 0xff, 0}) // field 2: no bucket; end of info
	out.Write(binary.AppendUvarint(nil, columns))
	out.Write(binary.AppendUvarint(nil, rows))
	for range columns {
		name, kind := in.str(), in.str()
		writeString(&out, name)
		writeString(&out, kind)
		out.WriteByte(0) // no custom serialisation
		switch kind {
		case "String":
			writeString(&out, in.str())
		case "UInt32":
			in.skip(4)
			out.Write(make([]byte, 4)) // the revision
		default:
			return nil, fmt.Errorf("the engine's answer to the client's opening question has a column of type %s", kind)
		}
	}
	if in.bad {
		return nil, errors.New("the engine's answer to the client's opening question is cut short")
	}
	return out.Bytes(), nil
}

func writeString(out *bytes.Buffer, s string) {
	out.Write(binary.AppendUvarint(nil, uint64(len(s))))
	out.WriteString(s)
}

// native0 reads the parts of a Native block of revision 0. After the first
// fault it is bad, and reads nothing.
type native0 struct {
	rest []byte
	bad  bool
}

func (n *native0) uvarint() uint64 {
	v, size := binary.Uvarint(n.rest)
	if size <= 0 {
		n.bad, n.rest = true, nil
		return 0
	}
	n.rest = n.rest[size:]
	return v
}

func (n *native0) str() string { return string(n.skip(n.uvarint())) }

func (n *native0) skip(size uint64) []byte {
	if n.bad || size > uint64(len(n.rest)) {
		n.bad, n.rest = true, nil
		return nil
	}
	out := n.rest[:size]
	n.rest = n.rest[size:]
	return out
}
