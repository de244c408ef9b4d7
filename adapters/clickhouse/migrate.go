package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Migration is one numbered file.
type Migration struct {
	Version    uint32
	Name       string
	Statements []string

	checksum string // SHA-256 of the file, hexadecimal
}

// breaking marks, at the end of its name, a migration after which older code must
// not run: it takes something away that that code uses. All others only add, and
// older code runs on.
const breaking = ".breaking"

var migrationName = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+(?:\.breaking)?)\.sql$`)

// Migrate applies the files NNNN_name.sql of a folder that were not applied
// yet, in the order of their numbers, and returns how many those were. It makes
// the database where that is missing. Where nothing is to be applied it only
// reads, so a user who may create nothing can start on a database that others
// migrated.
//
// A statement ends with a semicolon at the end of a line. ClickHouse has no
// transaction over several statements and a crash may fall between them and
// their record, so each statement is written to be repeatable (IF NOT EXISTS).
// An applied file never changes: that is an error. Versions that are recorded
// and have no file were applied by newer code, and are left alone unless they are
// breaking (NNNN_name.breaking.sql). One process at a time migrates.
func (s *Store) Migrate(ctx context.Context, files fs.FS) (applied int, err error) {
	pending, err := s.Pending(ctx, files)
	if err != nil || len(pending) == 0 {
		return 0, err
	}
	if err := s.prepare(ctx); err != nil {
		return 0, err
	}
	for _, m := range pending {
		for i, statement := range m.Statements {
			if err := s.conn.Exec(ctx, statement); err != nil {
				return applied, s.fault(ctx, fmt.Sprintf("apply migration %04d_%s, statement %d", m.Version, m.Name, i+1), err)
			}
		}
		if err := s.conn.Exec(ctx, recordMigration, m.Version, m.Name, m.checksum); err != nil {
			return applied, s.fault(ctx, fmt.Sprintf("record migration %04d_%s", m.Version, m.Name), err)
		}
		applied++
		s.log.Info("migration applied", "version", m.Version, "name", m.Name, "database", s.database)
	}
	return applied, nil
}

// Pending returns what Migrate would apply, in its order, and changes nothing.
func (s *Store) Pending(ctx context.Context, files fs.FS) ([]Migration, error) {
	wanted, err := readMigrations(files)
	if err != nil {
		return nil, err
	}
	done, err := s.appliedMigrations(ctx)
	if err != nil {
		return nil, err
	}
	var pending []Migration
	for _, m := range wanted {
		applied, ok := done[m.Version]
		switch {
		case !ok:
			pending = append(pending, m)
		case applied.checksum != m.checksum:
			return nil, errs.New(errs.Conflict, "LS-STO-009", "migration %04d_%s was applied to the database %s at %s from another text (recorded %.12s, here %.12s): restore its file and write the change as a new migration", m.Version, m.Name, s.database, s.where, applied.checksum, m.checksum)
		}
		delete(done, m.Version)
	}
	for version, m := range done {
		if strings.HasSuffix(m.Name, breaking) {
			return nil, errs.New(errs.Conflict, "LS-STO-007", "the database %s at %s is of a newer version of Lockstep: migration %04d_%s was applied, after which this version must not write there; run the newer version, or restore a backup from before", s.database, s.where, version, m.Name)
		}
	}
	return pending, nil
}

// prepare makes the database and the table of migrations where they are missing.
// A user who may not make databases may have one made for him.
func (s *Store) prepare(ctx context.Context) error {
	err := s.outside(ctx, func(conn driver.Conn) error {
		var there uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = {name:String}", ch.Named("name", s.database)).Scan(&there); err != nil || there > 0 {
			return err
		}
		return conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+identifier(s.database)+" ENGINE = Atomic")
	})
	if err != nil {
		return s.fault(ctx, "create the database "+s.database, err)
	}
	return s.fault(ctx, "create the table of applied migrations", s.conn.Exec(ctx, createMigrations))
}

const createMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt32,
    name       String,
    checksum   String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`

const recordMigration = `INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)`

// appliedMigrations are the recorded ones by their versions, without statements;
// none when there is no record, or no database.
func (s *Store) appliedMigrations(ctx context.Context) (map[uint32]Migration, error) {
	done := make(map[uint32]Migration)
	err := s.outside(ctx, func(conn driver.Conn) (err error) {
		var there uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = {name:String} AND name = 'schema_migrations'", ch.Named("name", s.database)).Scan(&there); err != nil || there == 0 {
			return err
		}
		rows, err := conn.Query(ctx, "SELECT version, name, checksum FROM "+identifier(s.database)+".schema_migrations FINAL")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var m Migration
			if err := rows.Scan(&m.Version, &m.Name, &m.checksum); err != nil {
				return err
			}
			done[m.Version] = m
		}
		return rows.Err()
	})
	return done, s.fault(ctx, "read the applied migrations", err)
}

// readMigrations reads a folder's migrations in order. Any other *.sql file
// there is an error: a misnamed migration must not be passed over.
func readMigrations(files fs.FS) ([]Migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list the migrations: %w", err)
	}
	slices.Sort(names)
	var all []Migration
	for _, name := range names {
		match := migrationName.FindStringSubmatch(path.Base(name))
		if match == nil {
			return nil, fmt.Errorf("the migration %s is not named NNNN_name.sql or NNNN_name.breaking.sql, lower case", name)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read the migration %s: %w", name, err)
		}
		number, err := strconv.ParseUint(match[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read the number of the migration %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		m := Migration{Version: uint32(number), Name: match[2], Statements: splitStatements(string(text)), checksum: hex.EncodeToString(sum[:])}
		if len(m.Statements) == 0 {
			return nil, fmt.Errorf("the migration %s has no statement", name)
		}
		if len(all) > 0 && all[len(all)-1].Version == m.Version {
			return nil, fmt.Errorf("the migrations %s and %s have one number", all[len(all)-1].Name, m.Name)
		}
		all = append(all, m)
	}
	return all, nil
}

// splitStatements cuts a file at semicolons that end a line. Lines that are
// only a comment are left out.
func splitStatements(text string) []string {
	var (
		all  []string
		part []string
	)
	flush := func() {
		if statement := strings.TrimSpace(strings.Join(part, "\n")); statement != "" {
			all = append(all, statement)
		}
		part = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		if whole, ends := strings.CutSuffix(line, ";"); ends {
			part = append(part, whole)
			flush()
			continue
		}
		part = append(part, line)
	}
	flush()
	return all
}
