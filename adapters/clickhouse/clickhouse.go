// Package clickhouse is the store of facts and history: it speaks to
// ClickHouse through clickhouse-go, to the embedded engine and to a real
// server alike.
//
// It owns the connection's settings, the migrations' mechanics, and the
// product's tables with their readers and writers. It does not own the engine
// (adapters/chdb) and takes no decision over what it reads.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// DefaultDatabase holds the product's tables when the DSN names none.
const DefaultDatabase = "lockstep"

// named is where people name a server.
const named = "--clickhouse, LOCKSTEP_STORE_DSN or store.dsn_file"

// Options say which ClickHouse to open.
type Options struct {
	// DSN names a server: clickhouse://user:password@host:9000/database, or
	// http(s)://… for its HTTP interface, with settings behind it. It is not used
	// when Dial is set. The tests go through HTTP alone: no server of the native
	// protocol is among their parts.
	DSN string
	// Dial reaches the embedded engine's HTTP interface, whatever address it
	// is asked for.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Database overrides the DSN's; empty means that one, or DefaultDatabase.
	Database string
	Log      *slog.Logger
}

// Store is an open ClickHouse.
type Store struct {
	conn     driver.Conn
	options  ch.Options
	http     bool   // the protocol is HTTP, not ClickHouse's native one
	where    string // for people
	remedy   string // what to do when it cannot be reached
	database string
	log      *slog.Logger
}

// The oldest ClickHouse that is let in: by its documentation it has all that this
// package uses, with the same meaning. The tests run on the embedded engine's
// version alone.
const (
	oldestMajor = 24
	oldestMinor = 8
)

// Open connects and checks that a server answers, lets this user in and is new
// enough. It retries nothing; the caller knows how long to wait. The database may
// be missing: Migrate makes it.
func Open(ctx context.Context, opts Options) (*Store, error) {
	options, err := opts.client()
	if err != nil {
		return nil, err
	}
	s := &Store{
		options: *options, http: options.Protocol == ch.HTTP, database: options.Auth.Database, log: opts.Log,
		where: "ClickHouse at " + strings.Join(options.Addr, ", "), remedy: "check the DSN (" + named + ") and that this server answers there",
	}
	if opts.Dial != nil {
		s.where, s.remedy = "the embedded ClickHouse engine", "it is started again by itself"
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var version string
	err = s.outside(ctx, func(conn driver.Conn) error {
		return s.fault(ctx, "open the store", conn.QueryRow(ctx, "SELECT version()").Scan(&version))
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errs.New(errs.Unavailable, "LS-STO-002", "open the store: %s did not answer in time: %w; %s", s.where, err, s.remedy)
	}
	if err != nil {
		return nil, err
	}
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil || major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return nil, errs.New(errs.Invalid, "LS-STO-005", "open the store: %s is version %q and %d.%d is needed at least; upgrade that server", s.where, version, oldestMajor, oldestMinor)
	}
	if s.conn, err = ch.Open(options); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return s, nil
}

// outside calls fn with a connection that is in no database of the product's,
// which may be missing.
func (s *Store) outside(ctx context.Context, fn func(driver.Conn) error) (err error) {
	options := s.options
	options.Auth.Database = ""
	conn, err := ch.Open(&options)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return fn(conn)
}

// Conn is the client, for the statements of this package's callers.
func (s *Store) Conn() driver.Conn { return s.conn }

// Ping asks the server whether it is there.
func (s *Store) Ping(ctx context.Context) error {
	return s.fault(ctx, "ask the store for an answer", s.conn.Ping(ctx))
}

// Close gives the connections back.
func (s *Store) Close() error { return s.conn.Close() }

// client turns the options into the driver's.
func (o Options) client() (*ch.Options, error) {
	options := &ch.Options{Protocol: ch.HTTP, Addr: []string{"embedded:8123"}}
	switch {
	case o.Dial != nil:
		options.DialContext = func(ctx context.Context, addr string) (net.Conn, error) { return o.Dial(ctx, "tcp", addr) }
	case o.DSN != "":
		parsed, err := ch.ParseDSN(o.DSN)
		// The client takes any other scheme for its native protocol.
		if scheme, _, _ := strings.Cut(o.DSN, "://"); err == nil && !slices.Contains([]string{"clickhouse", "tcp", "http", "https"}, scheme) {
			err = errors.New("it is no URL of ClickHouse")
		}
		if err != nil {
			// The DSN may hold a password, so it is not repeated.
			return nil, errs.New(errs.Invalid, "LS-STO-001", "read the ClickHouse DSN (%s): %w; it looks like clickhouse://user@host:9000/database or https://user@host:8443/database?secure=true", named, err)
		}
		options = parsed
	default:
		return nil, errors.New("open ClickHouse: neither a DSN nor the embedded engine was given")
	}
	if o.Database != "" {
		options.Auth.Database = o.Database
	}
	if options.Auth.Database == "" {
		options.Auth.Database = DefaultDatabase
	}
	options.MaxOpenConns = 8
	options.MaxIdleConns = 8
	// A server that takes a connection and says nothing is told within this; the
	// embedded engine may have to restart first.
	options.DialTimeout = 5 * time.Second
	if o.Dial != nil {
		options.DialTimeout = 30 * time.Second
	}
	options.ReadTimeout = 5 * time.Minute
	if options.Settings == nil {
		options.Settings = ch.Settings{}
	}
	for name, value := range settings() {
		options.Settings[name] = value
	}
	return options, nil
}

// settings go with every statement. Each default here has changed between
// ClickHouse versions or may be changed by a server's profile, and an insert's
// acknowledgement depends on it:
//
//   - no asynchronous inserts: the answer means that the rows are in a part,
//     and on disk where the table has fsync_after_insert;
//   - one block per batch, up to a million rows or 256 MiB: a batch within one
//     partition is stored whole or not at all;
//   - a repeated block is dropped where the table keeps a window for it, and
//     rows with one key collapse already inside a block.
func settings() ch.Settings {
	return ch.Settings{
		"async_insert":                0,
		"wait_for_async_insert":       1,
		"insert_deduplicate":          1,
		"optimize_on_insert":          1,
		"max_insert_block_size":       1 << 20,
		"min_insert_block_size_rows":  1 << 20,
		"min_insert_block_size_bytes": 256 << 20,
		"max_insert_threads":          1,
		"wait_end_of_query":           1,
	}
}

// identifier writes a name for SQL.
func identifier(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
