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
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// DefaultDatabase holds the product's tables when the DSN names none.
const DefaultDatabase = "lockstep"

// Options say which ClickHouse to open.
type Options struct {
	// DSN names a server: clickhouse://user:password@host:9000/database, or
	// http(s)://… for its HTTP interface. It is not used when Dial is set.
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
	database string
	log      *slog.Logger
}

// Open connects, creates the database where it is missing, and checks that it
// answers. It retries nothing; the caller knows how long to wait.
func Open(ctx context.Context, opts Options) (*Store, error) {
	options, err := opts.client()
	if err != nil {
		return nil, err
	}
	database := options.Auth.Database
	if err := createDatabase(ctx, *options, database); err != nil {
		return nil, err
	}
	conn, err := ch.Open(options)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse at %s: %w", options.Addr[0], err)
	}
	s := &Store{conn: conn, database: database, log: opts.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.Ping(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// Conn is the client, for the statements of this package's callers.
func (s *Store) Conn() driver.Conn { return s.conn }

// Ping asks the server whether it is there.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.conn.Ping(ctx); err != nil {
		return fmt.Errorf("reach ClickHouse: %w", err)
	}
	return nil
}

// Close gives the connections back.
func (s *Store) Close() error { return s.conn.Close() }

// Code is the ClickHouse error code in err's chain (60 is an unknown table,
// 394 a cancelled query), or 0 when there is none.
func Code(err error) int32 {
	if exception, ok := errors.AsType[*ch.Exception](err); ok {
		return exception.Code
	}
	return 0
}

// client turns the options into the driver's.
func (o Options) client() (*ch.Options, error) {
	options := &ch.Options{Protocol: ch.HTTP, Addr: []string{"embedded:8123"}}
	switch {
	case o.Dial != nil:
		options.DialContext = func(ctx context.Context, addr string) (net.Conn, error) { return o.Dial(ctx, "tcp", addr) }
	case o.DSN != "":
		parsed, err := ch.ParseDSN(o.DSN)
		if err != nil {
			// The DSN may hold a password, so it is not repeated.
			return nil, fmt.Errorf("read the ClickHouse DSN: %w (it looks like clickhouse://user@host:9000/database)", err)
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

// createDatabase makes the database over a connection to the one that always
// exists.
func createDatabase(ctx context.Context, options ch.Options, database string) (err error) {
	options.Auth.Database = "default"
	conn, err := ch.Open(&options)
	if err != nil {
		return fmt.Errorf("open ClickHouse at %s: %w", options.Addr[0], err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+identifier(database)+" ENGINE = Atomic"); err != nil {
		return fmt.Errorf("create the ClickHouse database %s at %s: %w", database, options.Addr[0], err)
	}
	return nil
}

// identifier writes a name for SQL.
func identifier(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
