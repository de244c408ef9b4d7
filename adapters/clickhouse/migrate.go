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
)

// migration is one numbered file.
type migration struct {
	version    uint32
	name       string
	checksum   string // SHA-256 of the file, hexadecimal
	statements []string
}

var migrationName = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)\.sql$`)

// Migrate applies the files NNNN_name.sql of a folder that were not applied
// yet, in the order of their numbers, and returns how many those were.
//
// A statement ends with a semicolon at the end of a line. ClickHouse has no
// transaction over several statements and a crash may fall between them and
// their record, so each statement is written to be repeatable (IF NOT EXISTS).
// An applied file never changes: that is an error. Versions that are recorded
// and have no file were applied by newer code, and are left alone. One process
// at a time migrates.
func (s *Store) Migrate(ctx context.Context, files fs.FS) (applied int, err error) {
	wanted, err := readMigrations(files)
	if err != nil {
		return 0, err
	}
	if err := s.conn.Exec(ctx, createMigrations); err != nil {
		return 0, fmt.Errorf("create the table of applied migrations: %w", err)
	}
	done, err := s.appliedMigrations(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range wanted {
		if checksum, ok := done[m.version]; ok {
			if checksum != m.checksum {
				return applied, fmt.Errorf("migration %04d_%s was applied from another text (recorded %.12s, here %.12s): restore its file and write the change as a new migration", m.version, m.name, checksum, m.checksum)
			}
			continue
		}
		for i, statement := range m.statements {
			if err := s.conn.Exec(ctx, statement); err != nil {
				return applied, fmt.Errorf("apply migration %04d_%s, statement %d: %w", m.version, m.name, i+1, err)
			}
		}
		if err := s.conn.Exec(ctx, recordMigration, m.version, m.name, m.checksum); err != nil {
			return applied, fmt.Errorf("record migration %04d_%s: %w", m.version, m.name, err)
		}
		applied++
		s.log.Info("migration applied", "version", m.version, "name", m.name, "database", s.database)
	}
	return applied, nil
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

func (s *Store) appliedMigrations(ctx context.Context) (_ map[uint32]string, err error) {
	rows, err := s.conn.Query(ctx, "SELECT version, checksum FROM schema_migrations FINAL")
	if err != nil {
		return nil, fmt.Errorf("read the applied migrations: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	done := map[uint32]string{}
	for rows.Next() {
		var (
			version  uint32
			checksum string
		)
		if err := rows.Scan(&version, &checksum); err != nil {
			return nil, fmt.Errorf("read an applied migration: %w", err)
		}
		done[version] = checksum
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the applied migrations: %w", err)
	}
	return done, nil
}

// readMigrations reads a folder's migrations in order. Any other *.sql file
// there is an error: a misnamed migration must not be passed over.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list the migrations: %w", err)
	}
	slices.Sort(names)
	var all []migration
	for _, name := range names {
		match := migrationName.FindStringSubmatch(path.Base(name))
		if match == nil {
			return nil, fmt.Errorf("the migration %s is not named NNNN_name.sql, lower case", name)
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
		m := migration{version: uint32(number), name: match[2], checksum: hex.EncodeToString(sum[:]), statements: splitStatements(string(text))}
		if len(m.statements) == 0 {
			return nil, fmt.Errorf("the migration %s has no statement", name)
		}
		if len(all) > 0 && all[len(all)-1].version == m.version {
			return nil, fmt.Errorf("the migrations %s and %s have one number", all[len(all)-1].name, m.name)
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
