package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/adapters/webhook"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/sources"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// checkLimit bounds each check; they run side by side.
	checkLimit = 5 * time.Second
	// answerLimit bounds the wait for whoever holds an address, so that what comes
	// of it can still be told.
	answerLimit = 3 * time.Second
	// skewLimit is how far this clock may be from the vendor's: vendor.source_lag
	// has to cover it, and is five seconds where nobody says otherwise.
	skewLimit = 2 * time.Second
	// The free space below which a data directory is worth a warning, and below
	// which a server would not get far.
	littleSpace, noSpace = 5 << 30, 512 << 20
)

// finding is what came out of one check.
type finding struct{ status, detail, todo, id string }

func fine(format string, args ...any) finding {
	return finding{status: cli.CheckOK, detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{status: cli.CheckSkip, detail: fmt.Sprintf(format, args...)}
}

func doubtful(todo, format string, args ...any) finding {
	return finding{status: cli.CheckWarn, detail: fmt.Sprintf(format, args...), todo: todo}
}

// failed words an error. Errors say what to do behind their last semicolon;
// where one does not, todo does.
func failed(err error, todo string) finding {
	f := finding{status: cli.CheckFail, detail: err.Error(), todo: todo, id: errs.IDOf(err)}
	// The id stands beside the text, wherever in it it arose.
	if f.id != "" {
		f.detail = strings.Replace(f.detail, f.id+": ", "", 1)
	}
	if i := strings.LastIndex(f.detail, "; "); i >= 0 && todo == "" {
		f.detail, f.todo = f.detail[:i], f.detail[i+2:]
	}
	return f
}

// check is one thing to look at.
type check struct {
	name string
	look func(context.Context) finding
}

// diagnose looks at everything a server needs. It changes nothing.
func diagnose(ctx context.Context, opts cli.DoctorOptions) []cli.Check {
	list := checks(opts)
	out := make([]cli.Check, len(list))
	var all sync.WaitGroup
	for i, c := range list {
		all.Go(func() {
			f := limited(ctx, c.look)
			out[i] = cli.Check{Name: c.name, Status: f.status, Detail: f.detail, Todo: f.todo, ID: f.id}
		})
	}
	all.Wait()
	return out
}

// limited gives a check its time. One that does not notice that its time is over
// is left behind.
func limited(ctx context.Context, look func(context.Context) finding) finding {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	found := make(chan finding, 1)
	go func() { found <- look(ctx) }()
	select {
	case f := <-found:
		return f
	case <-ctx.Done():
		return finding{status: cli.CheckFail, detail: fmt.Sprintf("it did not answer within %s", checkLimit), todo: "see that the network and the disk behind it work, then try again"}
	}
}

// checks lists what to look at, in the order it is shown.
func checks(opts cli.DoctorOptions) []check {
	file := opts.Config
	list := []check{
		{"configuration", func(context.Context) finding { return checkConfiguration(opts) }},
		{"environment", func(context.Context) finding { return checkEnvironment(opts.Environ) }},
	}
	if opts.Unread {
		return append(list, check{"everything else", func(context.Context) finding {
			return skipped("it depends on the configuration, which cannot be read")
		}})
	}
	dir := string(file.Server.DataDir)
	list = append(list,
		check{"data directory", func(context.Context) finding { return checkDataDir(dir) }},
		check{"free space", func(context.Context) finding { return checkSpace(dir) }},
		check{"admin token", func(context.Context) finding { return checkToken(file.Server.TokenFile()) }},
		check{"API address", func(ctx context.Context) finding {
			return checkAddress(ctx, dir, file.Server.Listen, file.Server.URL())
		}},
		check{"admin address", func(ctx context.Context) finding {
			if file.Server.AdminURL() == "" {
				return skipped("the server has none")
			}
			return checkAddress(ctx, dir, file.Server.AdminListen, file.Server.AdminURL())
		}},
		check{"bus", func(ctx context.Context) finding { return checkBus(ctx, file.Bus) }},
		check{"store", func(ctx context.Context) finding { return checkStore(ctx, opts) }},
		check{"vendor", func(ctx context.Context) finding { return checkVendor(ctx, file) }},
	)
	for _, c := range file.Clusters {
		if c.Compose == nil {
			continue
		}
		list = append(list,
			check{"cluster " + string(c.ID) + ", engine", func(ctx context.Context) finding { return checkEngine(ctx, c) }},
			check{"cluster " + string(c.ID) + ", files", func(ctx context.Context) finding { return checkFiles(ctx, c) }})
	}
	for _, w := range file.Notify.Webhooks {
		list = append(list, check{"webhook " + w.Name, func(ctx context.Context) finding { return checkWebhook(ctx, w) }})
	}
	return list
}

func checkConfiguration(opts cli.DoctorOptions) finding {
	if problems, ok := errors.AsType[config.Problems](opts.Problem); ok && len(problems) > 1 {
		f := failed(opts.Problem, "`lockstep config validate` lists all")
		f.detail = fmt.Sprintf("%d problems, the first: %s", len(problems), problems[0])
		return f
	}
	switch {
	case opts.Problem != nil:
		return failed(opts.Problem, "")
	case opts.ConfigPath == "":
		return doubtful("`lockstep config print-defaults > fleet.yaml` writes one to fill in; --config or LOCKSTEP_CONFIG names another place", "there is no file, so the server has no clusters")
	case len(opts.Config.Clusters) == 0:
		return doubtful("describe the fleet under clusters: (`lockstep config print-defaults` shows how)", "%s declares no clusters", opts.ConfigPath)
	}
	return fine("%s", opts.ConfigPath)
}

func checkEnvironment(environ []string) finding {
	strays := fleetfile.Strays(environ)
	if len(strays) == 0 {
		return fine("no variable looks like a slip")
	}
	var details, todo []string
	for _, v := range strays {
		details = append(details, v.Name)
		todo = append(todo, fmt.Sprintf("%s may be meant as %s", v.Name, v.Meaning))
	}
	return doubtful(strings.Join(todo, ", ")+"; `lockstep help environment` lists all that count", "nothing reads %s", strings.Join(details, ", "))
}

func checkDataDir(dir string) finding {
	if dir == "" {
		return skipped("the configuration does not say where it is")
	}
	const elsewhere = "choose a folder that this user may write with --data-dir or server.data_dir"
	unusable := func(err error) finding {
		return failed(errs.New(errs.Invalid, "LS-SRV-002", "%w", err), elsewhere)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := standing(dir)
		if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
			return unusable(fmt.Errorf("there is no %s and %s may not be written: %w", dir, parent, err))
		}
		return fine("%s is not there yet; the first start makes it", dir)
	case err != nil:
		return unusable(err)
	case !info.IsDir():
		return unusable(fmt.Errorf("%s is not a folder", dir))
	}
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return unusable(fmt.Errorf("%s may not be written: %w", dir, err))
	}
	d := dataDir{path: dir}
	if _, err := os.Stat(filepath.Join(dir, "format")); err == nil {
		if err := d.checkFormat(); err != nil {
			return failed(err, "")
		}
	}
	if holder := heldBy(dir); holder != "" {
		return fine("%s, in use by a server (%s)", dir, holder)
	}
	return fine("%s, in use by no server", dir)
}

// standing is the nearest folder above a path that exists.
func standing(path string) string {
	for {
		path = filepath.Dir(path)
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
	}
}

// heldBy names the process that holds a data directory, and is empty when none
// does. It asks for a share of the lock and gives it back at once.
func heldBy(dir string) string {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return ""
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(lock, 32))
	if pid, convErr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && convErr == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}

func checkSpace(dir string) finding {
	if dir == "" {
		return skipped("the configuration does not say where data goes")
	}
	on := dir
	if _, err := os.Stat(dir); err != nil {
		on = standing(dir)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(on, &disk); err != nil {
		return skipped("it cannot be told: %v", err)
	}
	const todo = "make room there, or move the data with --data-dir or server.data_dir"
	switch free := disk.Bavail * uint64(disk.Bsize); {
	case free < noSpace:
		return failed(fmt.Errorf("%s on the disk of %s", size(free), on), todo)
	case free < littleSpace:
		return doubtful(todo, "%s on the disk of %s; the observation stream alone may take 8.0 GiB", size(free), on)
	default:
		return fine("%s on the disk of %s", size(free), on)
	}
}

func size(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func checkToken(path string) finding {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skipped("there is none at %s yet; the first start makes it", path)
	case err != nil:
		return failed(errs.New(errs.Invalid, "LS-SRV-005", "reading the admin token: %w", err), "run this as the server's user")
	case info.Size() == 0:
		return failed(errs.New(errs.Invalid, "LS-SRV-005", "the admin token file %s is empty", path), "remove it and start the server again for a new token")
	case info.Mode().Perm()&0o077 != 0:
		return doubtful("chmod 600 "+path, "%s has mode %04o, so others on this machine may read it", path, info.Mode().Perm())
	}
	return fine("%s", path)
}

// checkAddress says whether a server on the data directory dir could listen, or
// does.
func checkAddress(ctx context.Context, dir, listen, base string) finding {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err == nil {
		return closed(l, listen)
	}
	refused := errs.New(errs.Conflict, "LS-SRV-003", "listening on %s: %w", listen, err)
	const todo = "choose another address with --listen and --admin-listen, or server.listen and server.admin_listen"
	if !errors.Is(err, syscall.EADDRINUSE) {
		return failed(refused, todo)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	asking, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	status, header, body, err := get(asking, client, base+"/readyz?verbose")
	version := header.Get(versionHeader)
	// Whoever is silent while a server has the data directory is that server.
	if err != nil && asking.Err() != nil {
		if holder := heldBy(dir); holder != "" {
			return doubtful("look again in a minute; if it stays so, see the server's log", "something listens at %s and does not answer; the server (%s) is starting or hangs", listen, holder)
		}
	}
	switch {
	case err != nil || version == "":
		return failed(refused, "something else than a Lockstep server listens there: stop it, or "+todo)
	case status == http.StatusOK:
		return fine("a Lockstep server, version %s, answers at %s and is ready", version, listen)
	case status == http.StatusServiceUnavailable:
		return doubtful("see the server's log; "+base+"/readyz?verbose says how it goes on", "a Lockstep server, version %s, answers at %s and is not ready: %s", version, listen, waiting(body))
	}
	return fine("a Lockstep server, version %s, answers at %s", version, listen)
}

func closed(l net.Listener, listen string) finding {
	if err := l.Close(); err != nil {
		return failed(fmt.Errorf("letting %s go: %w", listen, err), "try again")
	}
	return fine("%s is free", listen)
}

// waiting lists the roles that are not ready.
func waiting(readiness string) string {
	var roles []string
	for line := range strings.Lines(readiness) {
		if role, not := strings.CutPrefix(strings.TrimSpace(line), "[-]"); not {
			roles = append(roles, role)
		}
	}
	return strings.Join(roles, ", ")
}

func get(ctx context.Context, client *http.Client, address string) (status int, header http.Header, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, nil, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return response.StatusCode, response.Header, string(text), err
}

func checkBus(ctx context.Context, b fleetfile.Bus) finding {
	if b.URL == "" {
		return fine("the embedded one")
	}
	if b.CredentialsFile != "" {
		if _, err := os.ReadFile(string(b.CredentialsFile)); err != nil {
			return failed(fmt.Errorf("reading bus.credentials_file: %w", err), "correct the path, or let the server's user read the file")
		}
	}
	bus, err := natsbus.Open(natsbus.Options{URL: b.URL, CredentialsFile: string(b.CredentialsFile), Name: "lockstep-doctor", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return failed(err, "")
	}
	defer bus.Close()
	todo, err := bus.Plan(ctx, topology.Streams(), topology.KeyValues(), topology.Blobs())
	if err != nil {
		return failed(err, "")
	}
	address := fleetfile.File{Bus: b}.Redacted().Bus.URL
	if len(todo) > 0 {
		return fine("NATS answers at %s; `lockstep migrate`, or the first start, makes or changes %d of its streams and buckets", address, len(todo))
	}
	return fine("NATS answers at %s", address)
}

func checkStore(ctx context.Context, opts cli.DoctorOptions) finding {
	if opts.ClickHouse == "" {
		library := ""
		for _, pair := range opts.Environ {
			if path, set := strings.CutPrefix(pair, "LOCKSTEP_ENGINE_LIBRARY="); set {
				library = path
			}
		}
		return checkLibrary(library)
	}
	// The database that every server has: the one in the DSN would be made.
	store, err := clickhouse.Open(ctx, clickhouse.Options{DSN: opts.ClickHouse, Database: "default"})
	if err != nil {
		return failed(err, "see that the DSN (--clickhouse, LOCKSTEP_STORE_DSN or store.dsn_file) is right and that the server answers there")
	}
	if err := store.Close(); err != nil {
		return failed(err, "try again")
	}
	return fine("ClickHouse answers")
}

// checkLibrary looks for the engine without unpacking it.
func checkLibrary(path string) finding {
	found, err := chdb.Look(chdb.LibraryOptions{Path: path})
	if err != nil {
		return failed(err, "")
	}
	if !cpu.X86.HasSSE42 || !cpu.X86.HasPOPCNT {
		return failed(errors.New("the embedded engine needs a processor with SSE 4.2 and POPCNT, which this one, or the virtual machine, does not offer"),
			"use a ClickHouse server instead: LOCKSTEP_STORE_DSN or store.dsn_file")
	}
	switch {
	case !found.Attached:
		return fine("the embedded engine, %s", found.Path)
	case found.Unpacked:
		return fine("the embedded engine, unpacked at %s", found.Path)
	}
	above := standing(found.Path)
	if err := unix.Access(above, unix.W_OK|unix.X_OK); err != nil {
		return failed(errs.New(errs.Invalid, "LS-ENG-004", "the embedded engine is unpacked to %s, where this user may not write: %w", above, err), "set XDG_CACHE_HOME to a folder that it may write")
	}
	return fine("the embedded engine is attached; the first start unpacks it to %s (%d MiB)", found.Path, found.Size>>20)
}

func checkVendor(ctx context.Context, file fleetfile.File) finding {
	v := file.Vendor
	if v == nil {
		return doubtful("add a vendor: section (`lockstep config print-defaults` shows how)", "none is configured, so no sessions are seen and gates stay inconclusive")
	}
	options := sources.VendorOptions(*v, v.URL, slog.New(slog.DiscardHandler), time.Now)
	options.MaxWait = time.Second
	client, err := akeyless.New(options)
	if err != nil {
		f := failed(err, "")
		f.todo = cmp.Or(f.todo, "correct the path, or let the server's user read the file")
		return f
	}
	defer client.Close()
	names := make(map[string]fleet.ClusterID)
	for _, c := range file.Clusters {
		if c.VendorCluster != "" {
			names[c.VendorCluster] = c.ID
		}
	}
	with := cmp.Or(v.AccessID, "the command's credentials")
	at := cmp.Or(strings.Join(v.Command, " "), v.URL)
	p := client.Permissions(ctx, slices.Sorted(maps.Keys(names)))
	for _, call := range p.Calls {
		if call.Err != nil {
			return failed(call.Err, "")
		}
	}
	if p.Skew.Abs() > skewLimit {
		direction := "behind"
		if p.Skew < 0 {
			direction = "ahead of"
		}
		return doubtful("set the clock by NTP (`timedatectl set-ntp true`); sessions are judged by when they started",
			"%s answers; this machine's clock is at least %s %s its", at, p.Skew.Abs().Round(100*time.Millisecond), direction)
	}
	listed := func(vendor []string) string {
		out := make([]string, len(vendor))
		for i, name := range vendor {
			out[i] = fmt.Sprintf("%s (%s)", names[name], name)
		}
		return strings.Join(out, ", ")
	}
	switch {
	case len(p.Unknown) > 0:
		return doubtful("compare vendor_cluster with the gateway's cluster_name, and see that the role may list bastions", "%s answers and does not know %s", at, listed(p.Unknown))
	case len(p.Unseen) > 0:
		return doubtful("give the credentials' role "+p.Lacks(), "%s answers and does not show %s all sessions of %s, so gates there stay inconclusive", at, with, listed(p.Unseen))
	}
	return fine("%s answers and accepts %s", at, with)
}

func checkEngine(ctx context.Context, c fleetfile.Cluster) finding {
	engine, err := docker.New(docker.Options{Host: c.Compose.Engine})
	if err != nil {
		return failed(err, "")
	}
	defer engine.Close()
	inventory, err := engine.Inventory(ctx, c.ID, c.Compose.Project, c.Compose.Services, time.Now)
	switch {
	case err != nil && strings.Contains(err.Error(), "is not supported by this client"):
		// The library's own words: it speaks no version before 1.40.
		return failed(err, "upgrade the engine to Docker 19.03 or newer, which speaks API 1.40")
	case err != nil:
		return failed(err, "")
	}
	api := engine.API().ClientVersion()
	if len(inventory.Instances) == 0 {
		return doubtful(fmt.Sprintf("bring the project up once: docker compose --project-name %s up --detach", c.Compose.Project),
			"%s answers (API %s) and runs no component of project %s", c.Compose.Engine, api, c.Compose.Project)
	}
	return fine("%s answers (API %s), instances of project %s: %d", c.Compose.Engine, api, c.Compose.Project, len(inventory.Instances))
}

func checkFiles(ctx context.Context, c fleetfile.Cluster) finding {
	engine, err := compose.New(compose.Options{Host: c.Compose.Engine})
	if err != nil {
		return failed(err, "")
	}
	defer engine.Close()
	if err := engine.Check(ctx, sources.Target(c)); err != nil {
		problems := strings.Split(err.Error(), "\n")
		f := failed(errors.New(problems[0]), "")
		f.id = errs.IDOf(err)
		if len(problems) > 1 {
			f.detail = fmt.Sprintf("%d problems, the first: %s", len(problems), f.detail)
		}
		return f
	}
	return fine("%s in %s", strings.Join(c.Compose.Files, ", "), c.Compose.Dir)
}

func checkWebhook(ctx context.Context, w fleetfile.Webhook) finding {
	var secret []byte
	if w.SecretFile != "" {
		var err error
		if secret, err = os.ReadFile(string(w.SecretFile)); err != nil {
			return failed(errs.New(errs.Invalid, "LS-NOT-001", "reading secret_file: %w", err), "correct the path, or let the server's user read the file")
		}
	}
	if _, err := webhook.New(webhook.Options{URL: w.URL, Secret: string(secret), Now: time.Now}); err != nil {
		return failed(err, "")
	}
	address, err := url.Parse(w.URL)
	if err != nil {
		return skipped("its address is not one")
	}
	// Behind a proxy only the proxy has to be known here.
	through := ""
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: address}); err == nil && proxy != nil {
		address, through = proxy, " through the proxy "+proxy.Host
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, address.Hostname()); err != nil {
		return failed(fmt.Errorf("its host is not found: %w", err), "correct its url, or see that DNS works here")
	}
	return fine("%s is found%s; nothing was sent", address.Hostname(), through)
}
