package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/dirlock"
	"github.com/lockstep-fleet/lockstep/topology"
)

// says compares a finding with how it should begin and what it should tell to do.
func (f finding) says(t *testing.T, status, detail, todo, id string) {
	t.Helper()
	if f.status != status || !strings.Contains(f.detail, detail) || !strings.Contains(f.todo, todo) || f.id != id {
		t.Errorf("found %+v\nwant %s, %q, %q, %q", f, status, detail, todo, id)
	}
}

// taken is an address that nothing listens at.
func taken(t *testing.T) string {
	t.Helper()
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// doctorOptions describe a server that lacks nothing but a Docker Engine, without
// anything that has to run.
func doctorOptions(t *testing.T) cli.DoctorOptions {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), "services: {akeyless-gateway: {image: docker.io/akeyless/base:5.0.1}}\n", 0o600)
	o := cli.DoctorOptions{Environ: []string{"HOME=/h"}, ServerOptions: cli.ServerOptions{ConfigPath: "/etc/lockstep/fleet.yaml"}}
	o.Config = fleetfile.Default(func(string) string { return "" })
	o.Config.Server.Listen, o.Config.Server.AdminListen, o.Config.Server.DataDir = "127.0.0.1:0", fleetfile.Off, config.Path(filepath.Join(dir, "data"))
	o.Config.Clusters = []fleetfile.Cluster{{
		ID: "berlin", VendorCluster: "acc-1/p-1/berlin",
		Compose: &fleetfile.Compose{Engine: "unix://" + dir + "/no.sock", Project: "berlin", Dir: config.Path(dir), Files: []string{"compose.yaml"}},
	}}
	o.Config.Notify.Webhooks = []fleetfile.Webhook{{Name: "ops", URL: "http://127.0.0.1:1/hook"}}
	return o
}

func TestDoctorLooksAtEverythingInOrder(t *testing.T) {
	t.Parallel()
	o := doctorOptions(t)
	var got []string
	for _, c := range diagnose(t.Context(), o) {
		if c.Name == "free space" {
			c.Status = "" // that of the machine the test runs on
		}
		got = append(got, strings.TrimSpace(c.Name+": "+c.Status+" "+c.ID))
	}
	want := []string{
		"configuration: ok", "environment: ok", "data directory: ok", "free space:", "admin token: skip", "API address: ok", "admin address: skip",
		"bus: ok", "store: ok", "vendor: warn", "cluster berlin, engine: fail LS-CMP-001", "cluster berlin, files: ok", "webhook ops: ok",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("looked at\n%v\nwant\n%v", got, want)
	}
	if _, err := os.Stat(string(o.Config.Server.DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory was made: %v", err)
	}
}

func TestDoctorOfAConfiguration(t *testing.T) {
	t.Parallel()
	o := doctorOptions(t)
	one := config.Problems{{File: "f.yaml", Line: 2, Key: "log.level", Text: `"loud" is none of debug, info, warn, error`}}
	for name, tc := range map[string]struct {
		change                   func(*cli.DoctorOptions)
		status, detail, todo, id string
	}{
		"no file":      {func(o *cli.DoctorOptions) { o.ConfigPath = "" }, "warn", "there is no file", "print-defaults > fleet.yaml", ""},
		"no clusters":  {func(o *cli.DoctorOptions) { o.Config.Clusters = nil }, "warn", "fleet.yaml declares no clusters", "clusters:", ""},
		"one problem":  {func(o *cli.DoctorOptions) { o.Problem = one }, "fail", `f.yaml:2: log.level: "loud" is none`, "", "LS-CFG-003"},
		"two problems": {func(o *cli.DoctorOptions) { o.Problem = slices.Concat(one, one) }, "fail", "2 problems, the first: f.yaml:2: log.level", "`lockstep config validate` lists all", "LS-CFG-003"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := o
			tc.change(&changed)
			checkConfiguration(changed).says(t, tc.status, tc.detail, tc.todo, tc.id)
		})
	}
	unread := o // the subtests read o later
	unread.Unread, unread.Problem = true, errors.New("read the configuration: it is a folder; name the file in it")
	got := diagnose(t.Context(), unread)
	if len(got) != 3 || got[0].Status != "fail" || got[0].Detail != "read the configuration: it is a folder" || got[0].Todo != "name the file in it" || got[2].Status != "skip" {
		t.Errorf("without a configuration %+v", got)
	}
}

func TestDoctorOfTheEnvironment(t *testing.T) {
	t.Parallel()
	checkEnvironment([]string{"LOCKSTEP_CONFG=x", "LOCKSTEP_SERVICE_HOST=10.0.0.1"}).
		says(t, "warn", "nothing reads LOCKSTEP_CONFG", "LOCKSTEP_CONFG may be meant as LOCKSTEP_CONFIG", "")
}

func TestDoctorOfADataDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	checkDataDir(dir).says(t, "ok", "in use by no server", "", "")
	checkDataDir(filepath.Join(dir, "a", "b")).says(t, "ok", "the first start makes it", "", "")
	checkDataDir(write(t, filepath.Join(dir, "file"), "", 0o600)).says(t, "fail", "file is not a folder", "--data-dir", "LS-SRV-002")
	checkDataDir(filepath.Join(dir, "file", "below")).says(t, "fail", "not a directory", "--data-dir", "LS-SRV-002")
	checkDataDir("").says(t, "skip", "", "", "")

	release, err := dirlock.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkDataDir(dir).says(t, "ok", fmt.Sprintf("in use by a server (process %d)", os.Getpid()), "", "")
	release()
	checkDataDir(dir).says(t, "ok", "in use by no server", "", "")
	if again, err := dirlock.Lock(dir); err != nil {
		t.Errorf("the lock was not given back: %v", err)
	} else {
		again()
	}

	write(t, filepath.Join(dir, "format"), "999\n", 0o600)
	checkDataDir(dir).says(t, "fail", `has format "999"`, "start the version that wrote it", "LS-SRV-004")
}

func TestDoctorOfAToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	checkToken(filepath.Join(dir, "none")).says(t, "skip", "the first start makes it", "", "")
	checkToken(write(t, filepath.Join(dir, "good"), "x", 0o600)).says(t, "ok", "good", "", "")
	checkToken(write(t, filepath.Join(dir, "open"), "x", 0o644)).says(t, "warn", "mode 0644", "chmod 600 "+dir+"/open", "")
	checkToken(write(t, filepath.Join(dir, "empty"), "", 0o600)).says(t, "fail", "is empty", "remove it", "LS-SRV-005")
}

func TestDoctorOfAnAddress(t *testing.T) {
	t.Parallel()
	idle := t.TempDir()
	free := taken(t)
	checkAddress(t.Context(), idle, free, "http://"+free).says(t, "ok", free+" is free", "", "")
	checkAddress(t.Context(), idle, "192.0.2.1:1", "http://192.0.2.1:1").says(t, "fail", "cannot assign requested address", "--listen", "LS-SRV-003")

	mute := listen(t)
	ask := func(dir string) finding {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return checkAddress(ctx, dir, mute.Addr().String(), "http://"+mute.Addr().String())
	}
	ask(idle).says(t, "fail", "address already in use", "something else than a Lockstep server", "LS-SRV-003")
	held := t.TempDir()
	release, err := dirlock.Lock(held)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ask(held).says(t, "warn", fmt.Sprintf("the server (process %d) is starting or hangs", os.Getpid()), "look again", "")
	// What answers and is none of ours is not the server, whoever has the folder.
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	checkAddress(t.Context(), held, other.Listener.Addr().String(), other.URL).says(t, "fail", "address already in use", "something else than a Lockstep server", "LS-SRV-003")

	for name, tc := range map[string]struct {
		version                string
		status                 int
		want, detail, todo, id string
		body                   string
	}{
		"ours":           {"1.2.3", 200, "ok", "version 1.2.3, answers at", "", "", "ok\n"},
		"ours, starting": {"1.2.3", 503, "warn", "is not ready: store: it restarts, bus", "/readyz?verbose", "", "[+]api\n[-]store: it restarts\n[-]bus\n"},
		"ours, the API":  {"1.2.3", 404, "ok", "a Lockstep server, version 1.2.3", "", "", ""},
		"another's":      {"", 200, "fail", "address already in use", "something else", "LS-SRV-003", "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tc.version != "" {
					w.Header().Set(versionHeader, tc.version)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer web.Close()
			checkAddress(t.Context(), idle, web.Listener.Addr().String(), web.URL).says(t, tc.want, tc.detail, tc.todo, tc.id)
		})
	}
}

func TestDoctorOfABus(t *testing.T) {
	t.Parallel()
	checkBus(t.Context(), fleetfile.Bus{}).says(t, "ok", "the embedded one", "", "")
	checkBus(t.Context(), fleetfile.Bus{URL: "nats://" + taken(t)}).says(t, "fail", "connection", "check the address", "LS-BUS-001")
	checkBus(t.Context(), fleetfile.Bus{URL: "nats://x", CredentialsFile: "/no/creds"}).says(t, "fail", "reading bus.credentials_file", "correct the path", "")

	run := func(jetstream bool) string {
		s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: jetstream, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(patience) {
			t.Fatal("the NATS server is not ready")
		}
		return "nats://u:hush@" + s.Addr().String()
	}
	found := checkBus(t.Context(), fleetfile.Bus{URL: run(true)})
	found.says(t, "ok", "NATS answers at nats://redacted@", "", "")
	missing := len(topology.Streams()) + len(topology.KeyValues()) + len(topology.Blobs())
	found.says(t, "ok", fmt.Sprintf("makes or changes %d of its streams and buckets", missing), "", "")
	if strings.Contains(found.detail, "hush") {
		t.Error("the password is shown")
	}
	if found := checkBus(t.Context(), fleetfile.Bus{URL: run(false)}); found.status != cli.CheckFail || found.id == "" {
		t.Errorf("without JetStream %+v", found)
	}
}

func TestDoctorOfAStore(t *testing.T) {
	t.Parallel()
	at := func(dsn string) finding {
		ctx, cancel := context.WithTimeout(t.Context(), checkLimit)
		defer cancel()
		return checkStore(ctx, cli.DoctorOptions{ServerOptions: cli.ServerOptions{ClickHouse: dsn}})
	}
	if found := at("http://u:hush@" + taken(t)); found.status != cli.CheckFail || strings.Contains(found.detail, "hush") || found.todo == "" {
		t.Errorf("nobody there: %+v", found)
	}
	if found := at("clickhouse://u:hush@h:port/x"); found.status != cli.CheckFail || strings.Contains(found.detail, "hush") {
		t.Errorf("no DSN: %+v", found)
	}
	at("http://"+clickhouseServer(t)).says(t, "ok", "ClickHouse answers", "", "")
}

// clickhouseServer is the real engine behind a port.
func clickhouseServer(t *testing.T) string {
	t.Helper()
	library, err := chdb.FindLibrary(chdb.LibraryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := chdb.Start(t.Context(), chdb.Options{Args: []string{engineCommandName}, Library: library, DataDir: folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := engine.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			go forward(t.Context(), in, engine)
		}
	}()
	return l.Addr().String()
}

func forward(ctx context.Context, in net.Conn, engine *chdb.Engine) {
	defer in.Close()
	out, err := engine.DialContext(ctx, "tcp", "engine")
	if err != nil {
		return
	}
	defer out.Close()
	go func() { _, _ = io.Copy(out, in) }()
	_, _ = io.Copy(in, out)
}

func TestDoctorOfALibrary(t *testing.T) {
	t.Parallel()
	checkLibrary("").says(t, "ok", "libchdb.so", "", "")
	if found := checkLibrary(filepath.Join(t.TempDir(), "none.so")); found.status != cli.CheckFail || !strings.Contains(found.todo, "LOCKSTEP_STORE_DSN") {
		t.Errorf("no such library: %+v", found)
	}
}

func TestDoctorOfAVendor(t *testing.T) {
	t.Parallel()
	vendor := newVendor(t)
	key := write(t, filepath.Join(t.TempDir(), "key"), akeylesstest.AccessKey+"\n", 0o600)
	file := fleetfile.File{
		Vendor:   &fleetfile.Vendor{URL: vendor.URL(), AccessID: akeylesstest.AccessID, AccessKeyFile: config.Path(key)},
		Clusters: []fleetfile.Cluster{{ID: "berlin", VendorCluster: "acc-1/p-1/berlin"}, {ID: "paris"}},
	}
	checkVendor(t.Context(), file).says(t, "ok", "accepts "+akeylesstest.AccessID, "", "")
	checkVendor(t.Context(), fleetfile.File{}).says(t, "warn", "none is configured", "vendor:", "")

	file.Clusters = append(file.Clusters, fleetfile.Cluster{ID: "rome", VendorCluster: "acc-1/p-1/rome"})
	checkVendor(t.Context(), file).says(t, "warn", "does not know rome (acc-1/p-1/rome)", "cluster_name", "")

	wrong := *file.Vendor
	wrong.AccessKeyFile = config.Path(write(t, key+"-wrong", "hush", 0o600))
	found := checkVendor(t.Context(), fleetfile.File{Vendor: &wrong})
	found.says(t, "fail", "the credentials were rejected", "check the access id", "LS-VEN-001")
	if strings.Contains(found.detail+found.todo, "hush") {
		t.Error("the key is shown")
	}
	wrong.AccessKeyFile = "/no/key"
	checkVendor(t.Context(), fleetfile.File{Vendor: &wrong}).says(t, "fail", "reading vendor.access_key_file", "correct the path", "LS-VEN-008")
	wrong.AccessKeyFile = config.Path(write(t, key+"-empty", " \n", 0o600))
	checkVendor(t.Context(), fleetfile.File{Vendor: &wrong}).says(t, "fail", "key-empty is empty", "put the secret there", "LS-VEN-008")
	vendor.SetDown(true)
	checkVendor(t.Context(), file).says(t, "fail", "no complete answer", "check the address", "LS-VEN-002")
}

func TestDoctorSeesAClockThatIsOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		moved  time.Duration // the vendor's clock
		status string
		detail string
	}{
		"ahead":  {-10 * time.Second, "warn", " ahead of its"},
		"behind": {10 * time.Second, "warn", " behind its"},
		"little": {time.Second, "ok", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vendor := newVendor(t)
			vendor.SetClockSkew(tc.moved)
			key := write(t, filepath.Join(t.TempDir(), "key"), akeylesstest.AccessKey, 0o600)
			v := &fleetfile.Vendor{URL: vendor.URL(), AccessID: akeylesstest.AccessID, AccessKeyFile: config.Path(key)}
			checkVendor(t.Context(), fleetfile.File{Vendor: v}).says(t, tc.status, tc.detail, "", "")
		})
	}
}

// dockerEngine answers as much of Docker's API as listing containers takes.
func dockerEngine(t *testing.T, api string) string {
	t.Helper()
	socket := filepath.Join(folder(t), "d.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", api)
		w.Header().Set("Content-Type", "application/json")
		asked := strings.TrimPrefix(strings.Split(r.URL.Path, "/")[1], "v")
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
		case asked != api:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"message":"client version %s is too new. Maximum supported API version is %s"}`, asked, api)
		default:
			_, _ = io.WriteString(w, "[]")
		}
	})}
	go func() { _ = web.Serve(l) }()
	t.Cleanup(func() { _ = web.Close() })
	return "unix://" + socket
}

func TestDoctorOfAnEngine(t *testing.T) {
	t.Parallel()
	at := func(engine string) finding {
		return checkEngine(t.Context(), fleetfile.Cluster{ID: "berlin", Compose: &fleetfile.Compose{Engine: engine, Project: "berlin-1"}})
	}
	at(dockerEngine(t, "1.47")).says(t, "warn", "answers (API 1.47) and runs no component of project berlin-1", "docker compose --project-name berlin-1 up", "")
	at(dockerEngine(t, "1.39")).says(t, "fail", "API version 1.39 is not supported", "Docker 19.03", "")
	at("unix:///no/docker.sock").says(t, "fail", "cannot be reached", "start the engine", "LS-CMP-001")
}

func TestDoctorOfFiles(t *testing.T) {
	t.Parallel()
	c := doctorOptions(t).Config.Clusters[0]
	checkFiles(t.Context(), c).says(t, "ok", "compose.yaml in ", "", "")
	dir := string(c.Compose.Dir)
	write(t, filepath.Join(dir, "open.yaml"), "services: {akeyless-gateway: {image: docker.io/akeyless/base}, akeyless-web: {image: docker.io/akeyless/zero-trust-bastion:latest}}\n", 0o600)
	write(t, filepath.Join(dir, "broken.yaml"), "services: [\n", 0o600)
	for files, want := range map[string]finding{
		"none.yaml":   {"fail", "does not exist", "restore the file", "LS-CMP-003"},
		"broken.yaml": {"fail", "broken.yaml", "docker compose config` shows it", "LS-CMP-004"},
		"open.yaml":   {"fail", "2 problems, the first: ", "write the exact version", "LS-CMP-005"},
	} {
		c.Compose.Files = []string{files}
		checkFiles(t.Context(), c).says(t, want.status, want.detail, want.todo, want.id)
	}
}

func TestDoctorOfAWebhook(t *testing.T) {
	t.Parallel()
	checkWebhook(t.Context(), fleetfile.Webhook{URL: "https://127.0.0.1:1/hush"}).says(t, "ok", "127.0.0.1 is found; nothing was sent", "", "")
	checkWebhook(t.Context(), fleetfile.Webhook{URL: "https://nowhere.invalid/hush"}).says(t, "fail", "its host is not found", "DNS", "")
	checkWebhook(t.Context(), fleetfile.Webhook{URL: "https://127.0.0.1", SecretFile: "/no/secret"}).says(t, "fail", "reading secret_file", "correct the path", "LS-NOT-001")
	secret := config.Path(write(t, filepath.Join(t.TempDir(), "secret"), "!!", 0o600))
	checkWebhook(t.Context(), fleetfile.Webhook{URL: "https://127.0.0.1", SecretFile: secret}).says(t, "fail", "not base64", "", "LS-NOT-001")
}

func TestACheckThatHangsIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, end := time.Now(), make(chan struct{})
		found := limited(t.Context(), func(context.Context) finding { <-end; return fine("late") })
		found.says(t, "fail", "did not answer within 5s", "try again", "")
		if took := time.Since(began); took != checkLimit {
			t.Errorf("it took %s", took)
		}
		close(end)
	})
}
