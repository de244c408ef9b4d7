package chdb

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// session is what a request asks of the connection that runs it.
type session struct {
	database string
	settings map[string]string
}

// member is a connection of the pool and the session state it is in.
type member struct {
	conn  *connection
	state session
	// spoiled means that the state is not known any more: the connection is
	// opened anew before it is used again.
	spoiled bool
}

// pool shares the engine's connections between requests. Each runs one
// statement at a time; one more is kept aside to stop statements and to tidy up.
type pool struct {
	lib     *library
	path    string
	free    chan *member
	size    int
	control chan *connection
	used    atomic.Uint64 // how often a connection was acquired
	log     func(msg string, args ...any)
}

func newPool(lib *library, path string, size int, log func(string, ...any)) (*pool, error) {
	p := &pool{lib: lib, path: path, size: size, free: make(chan *member, size), control: make(chan *connection, 1), log: log}
	control, err := lib.connect(path)
	if err != nil {
		return nil, err
	}
	p.control <- control
	for range size {
		m := &member{}
		if err := p.renew(m); err != nil {
			return nil, err
		}
		p.free <- m
	}
	return p, nil
}

// close waits for the statements in flight and closes every connection; the
// last one closes the engine, which writes what it still holds.
func (p *pool) close() {
	for range p.size {
		(<-p.free).conn.close()
	}
	(<-p.control).close()
}

// base are the settings every connection starts with. Inserted data lies in
// files whose names the kernel uses again for other data, so their columns must
// not be remembered by name. A statement without a verb is a SELECT to the
// command-line tool the library comes from, and an error to a server. Each thread
// of a statement holds buffers for every column, so there are few of them however
// many cores there are.
func base() map[string]string {
	return map[string]string{
		"schema_inference_use_cache_for_file": "0",
		"implicit_select":                     "0",
		"max_threads":                         strconv.Itoa(min(runtime.GOMAXPROCS(0), 8)),
	}
}

const defaultDatabase = "default"

// renew gives a member a fresh connection in the starting state.
func (p *pool) renew(m *member) error {
	m.spoiled = true
	fresh, err := p.lib.connect(p.path)
	if err != nil {
		return err
	}
	if m.conn != nil {
		m.conn.close()
	}
	m.conn = fresh
	m.state = session{database: defaultDatabase}
	if _, err := m.conn.query(assignments(nil, base()), nil); err != nil {
		return fmt.Errorf("set the ClickHouse engine's starting settings: %w", err)
	}
	m.state.settings = base()
	m.spoiled = false
	return nil
}

// acquire takes a free connection and brings it into the wanted session state.
func (p *pool) acquire(ctx context.Context, want session) (*member, error) {
	p.used.Add(1)
	var m *member
	select {
	case m = <-p.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := p.prepare(m, want); err != nil {
		p.release(m)
		return nil, err
	}
	return m, nil
}

func (p *pool) release(m *member) { p.free <- m }

func (p *pool) prepare(m *member, want session) error {
	if m.spoiled {
		if err := p.renew(m); err != nil {
			return err
		}
	}
	settings := base()
	maps.Copy(settings, want.settings)
	if !maps.Equal(settings, m.state.settings) {
		if _, err := m.conn.query(assignments(m.state.settings, settings), nil); err != nil {
			m.spoiled = true
			return err
		}
		m.state.settings = settings
	}
	if want.database != m.state.database {
		if _, err := m.conn.query("USE "+identifier(want.database), nil); err != nil {
			m.spoiled = true
			return err
		}
		m.state.database = want.database
	}
	return nil
}

// assignments is the SET statement that leads from one set of settings to
// another: changed ones get their value, missing ones their default.
func assignments(have, want map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if value, ok := have[name]; !ok || value != want[name] {
			parts = append(parts, name+" = "+literal(want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			parts = append(parts, name+" = DEFAULT")
		}
	}
	return "SET " + strings.Join(parts, ", ")
}

// literal writes a string for SQL.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// identifier writes a name for SQL.
func identifier(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}

// marked prefixes a statement with a comment by which stopOn finds it among
// the running ones.
func marked(id uint64, sql string) string { return fmt.Sprintf("/*request %d*/ %s", id, sql) }

// stopOn ends the marked statement when ctx ends. The caller calls the
// returned function once the statement has returned. The engine may need
// several requests: a statement that is still being parsed is not in its list.
func (p *pool) stopOn(ctx context.Context, id uint64) (finished func()) {
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		again := time.NewTicker(100 * time.Millisecond)
		defer again.Stop()
		for {
			p.kill(id)
			select {
			case <-done:
				return
			case <-again.C:
			}
		}
	}()
	return func() { close(done); <-stopped }
}

// ask runs a statement on the spare connection.
func (p *pool) ask(sql string) error {
	control := <-p.control
	defer func() { p.control <- control }()
	_, err := control.query(sql, nil)
	return err
}

func (p *pool) kill(id uint64) {
	if err := p.ask("KILL QUERY WHERE startsWith(query, " + literal(marked(id, "")) + ") ASYNC"); err != nil {
		p.log("the engine refused to stop a statement whose client went away", "error", err.Error())
	}
}
