package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// addressPool is where the private engine takes its networks from: away
	// from 172.16/12 and 192.168/16, which other engines use by default.
	addressPool = "10.213.0.0/16"
	namespace   = "lockstep-lab" // in a containerd that other engines share
	stopLimit   = 20 * time.Second
	startLimit  = 60 * time.Second
)

// sbin is where Debian puts dockerd and iptables, which root's PATH lacks after
// a plain su.
const sbin = "/usr/local/sbin:/usr/sbin:/sbin"

// tool finds a program of the system.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range filepath.SplitList(sbin) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// install makes dockerd available, from Debian's packages where it is missing.
func install(ctx context.Context, log *slog.Logger) error {
	if _, err := tool("dockerd"); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("find a Docker Engine: dockerd is not installed and there is no apt-get to install it with; install Docker, or set DOCKER_HOST")
	}
	log.Info("installing Docker from Debian's packages; this happens once and takes a minute or two")
	begun := time.Now()
	for _, args := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "docker.io", "iptables"},
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install Docker: apt-get %s: %w\n%s", args[0], err, tail(string(out), 15))
		}
	}
	if _, err := tool("dockerd"); err != nil {
		return fmt.Errorf("install Docker: apt-get succeeded, but %w", err)
	}
	log.Info("Docker installed", "took", time.Since(begun).Round(time.Second))
	return nil
}

// daemon is one dockerd started here. Its death is tied to this process's: the
// kernel sends it SIGTERM when the thread that started it ends, so a killed
// test run leaves no daemon behind.
type daemon struct {
	run     string // runtime folder: socket, pid file, containerd's state, log
	data    string
	lock    *os.File // in data; who holds it owns data and run
	process *os.Process
	exited  chan struct{}
	exitErr error // read only after exited is closed
}

func startDaemon(ctx context.Context, data string, log *slog.Logger) (*daemon, error) {
	data, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	// Unix socket paths are short, so the runtime folder is not below data.
	name := fmt.Sprintf("docker-%x", sha256.Sum256([]byte(data)))[:15]
	d := &daemon{run: filepath.Join("/run/lockstep", name), data: data}
	if err := os.MkdirAll(d.data, 0o700); err != nil {
		return nil, err
	}
	if d.lock, err = acquire(ctx, filepath.Join(d.data, "lockstep.lock"), log); err != nil {
		return nil, err
	}
	// Under the lock, so that two runs do not install at once.
	if err := install(ctx, log); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	if err := d.launch(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	return d, nil
}

func (d *daemon) launch() error {
	if err := os.MkdirAll(d.run, 0o700); err != nil {
		return err
	}
	if err := d.clearStale(); err != nil {
		return err
	}
	if err := d.allowForwarding(); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(d.run, "log"))
	if err != nil {
		return err
	}
	defer out.Close()
	// No bridge and no firewall rules of its own: a second engine on the
	// machine keeps docker0 and its chains, which a starting dockerd would
	// flush. Ports published on 127.0.0.1 go through the userland proxy.
	path, err := tool("dockerd")
	if err != nil {
		return err
	}
	cmd := exec.Command(path,
		"--data-root", d.data,
		"--exec-root", filepath.Join(d.run, "exec"),
		"--pidfile", d.pidfile(),
		"--host", d.host(),
		"--bridge", "none",
		"--iptables=false",
		"--ip-masq=false",
		"--ip-forward=false",
		"--userland-proxy=true",
		"--default-address-pool", "base="+addressPool+",size=24",
		"--containerd-namespace", namespace,
		"--containerd-plugins-namespace", namespace+"-plugins",
		"--shutdown-timeout", "5",
	)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+sbin)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}

	d.exited = make(chan struct{})
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends, so that thread is
		// kept for as long as the daemon lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			d.exitErr = cmd.Wait()
			close(d.exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("run dockerd: %w", err)
	}
	d.process = cmd.Process
	return nil
}

func (d *daemon) host() string    { return "unix://" + filepath.Join(d.run, "docker.sock") }
func (d *daemon) pidfile() string { return filepath.Join(d.run, "dockerd.pid") }

// wait returns once ready succeeds, or with the daemon's own last words when
// it exits or the time is over.
func (d *daemon) wait(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.exited:
			return fmt.Errorf("dockerd exited (%w); its last words:\n%s", d.exitErr, d.words())
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer (%w); its last words:\n%s", err, d.words())
		case <-tick.C:
		}
	}
}

func (d *daemon) words() string {
	b, err := os.ReadFile(filepath.Join(d.run, "log"))
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 15)
}

// halt ends the daemon that was started here, by its process id: politely, then by
// force.
func (d *daemon) halt() error {
	err := d.process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-d.exited:
	case <-time.After(stopLimit):
		err = errors.Join(err, fmt.Errorf("dockerd (pid %d) ignored SIGTERM for %s and was killed", d.process.Pid, stopLimit), d.process.Kill())
		<-d.exited
	}
	return err
}

// stop halts the daemon for good. The runtime folder goes, unless something went
// wrong: it has the log. The lock is released last.
func (d *daemon) stop() error {
	err := d.halt()
	err = errors.Join(err, d.forbidForwarding(), unmountUnder(d.data))
	if err == nil {
		err = os.RemoveAll(d.run)
	}
	return errors.Join(err, d.lock.Close())
}

// clearStale ends a daemon that a killed run left on our data folder and
// removes its pid file and socket. A pid that now belongs to another program
// is left alone. The lock is held, so no live run owns what is found here.
func (d *daemon) clearStale() error {
	b, err := os.ReadFile(d.pidfile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil && d.isOurs(pid) {
		if err := end(pid); err != nil {
			return fmt.Errorf("end the dockerd (pid %d) that an earlier run left: %w", pid, err)
		}
	}
	return errors.Join(remove(d.pidfile()), remove(filepath.Join(d.run, "docker.sock")))
}

// isOurs reports whether the process is a dockerd on our data folder.
func (d *daemon) isOurs(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	if filepath.Base(args[0]) != "dockerd" {
		return false
	}
	for i := range args[:len(args)-1] {
		if args[i] == "--data-root" && args[i+1] == d.data {
			return true
		}
	}
	return false
}

// end stops a process that is not our child and waits until it is gone.
func end(pid int) error {
	for _, try := range []struct {
		signal syscall.Signal
		limit  time.Duration
	}{{syscall.SIGTERM, stopLimit}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := syscall.Kill(pid, try.signal); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return err
		}
		tick := time.NewTicker(20 * time.Millisecond)
		for limit := time.After(try.limit); limit != nil; {
			select {
			case <-limit:
				limit = nil
			case <-tick.C:
				if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
					tick.Stop()
					return nil
				}
			}
		}
		tick.Stop()
	}
	return errors.New("it is still there after SIGKILL")
}

// acquire takes the file's lock, waiting for another run until ctx ends. The
// kernel releases it when this process ends, however it ends.
func acquire(ctx context.Context, path string, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	told := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !told {
			told = true
			log.Info("another run holds the private Docker Engine; waiting for it to finish", "lock", path)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another run to release %s: %w", path, ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}

// Containers of one private network reach each other through the FORWARD chain
// when bridges are filtered, and another Docker Engine on the machine leaves
// that chain's policy at DROP. One rule, for our own addresses only, lets
// them. Its comment names the engine: another private engine, on another data
// folder, adds and removes its own.
func (d *daemon) forward(action string) error {
	path, err := tool("iptables")
	if err != nil {
		return err
	}
	out, err := exec.Command(path, "-w", action, "FORWARD", "-s", addressPool, "-d", addressPool,
		"-m", "comment", "--comment", "lockstep-"+filepath.Base(d.run), "-j", "ACCEPT").CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", action, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (d *daemon) allowForwarding() error {
	if d.forward("-C") == nil {
		return nil // a killed run left it
	}
	if err := d.forward("-I"); err != nil {
		return fmt.Errorf("let containers of the private Docker Engine reach each other: %w", err)
	}
	return nil
}

func (d *daemon) forbidForwarding() error {
	if err := d.forward("-D"); err != nil {
		return fmt.Errorf("remove the firewall rule of the private Docker Engine: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// unmountUnder takes away the mounts at or below a folder, deepest first. A
// dockerd mounts its data folder onto itself and leaves that behind when it is
// killed; the next one takes the mount for somebody else's.
func unmountUnder(root string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for _, line := range slices.Backward(strings.Split(string(text), "\n")) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// The kernel writes a space in a path as \040.
		point := strings.ReplaceAll(fields[4], `\040`, " ")
		if point != root && !strings.HasPrefix(point, root+"/") {
			continue
		}
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}
