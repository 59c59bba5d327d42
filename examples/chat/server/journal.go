package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

const (
	// journalHeader is the first line. A file without it is not the chat's.
	journalHeader = `{"wsguard_chat":1}` + "\n"
	// maxLine is more than any record of the store needs.
	maxLine = 64 << 10
	// minRewrite is the smallest size at which the journal is written anew.
	minRewrite = 1 << 20
)

var (
	errInUse   = errors.New("another chat uses it: give this one a file of its own with -data")
	errForeign = errors.New("is not a file of this chat, and was left as it is: name another one with -data")
)

// journal is a file of lines that survives kill -9 at any moment. A line is appended by one write
// at a known offset. So the process leaves at most one torn line, the last, which the next start
// ignores and overwrites. A rewrite goes to a new file, which is then renamed.
//
// The journal does not sync the file. What a write has handed to the operating system outlives the
// process, but the last lines may be lost if the machine loses its power.
//
// A journal is not safe for concurrent use: the mutex of its store guards it.
type journal struct {
	path   string
	file   file
	unlock func()
	size   int64 // where the next line goes; what a failed write left behind it has no line break
	limit  int64 // the size that makes a rewrite due
}

// file is the part of os.File that a journal uses after the start. Tests replace it.
type file interface {
	io.WriterAt
	io.Closer
}

// openJournal calls apply for each line of the file, if there is one. The caller must then call
// rewrite, which creates the file. Errors name the file, which stays as it is.
func openJournal(path string, apply func(line []byte) error) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if p, err := filepath.EvalSymlinks(path); err == nil {
		path = p // because a rename replaces a link
	}
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := readJournal(path, apply); err != nil && !errors.Is(err, fs.ErrNotExist) {
		unlock()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &journal{path: path, file: (*os.File)(nil), unlock: unlock}, nil
}

func readJournal(path string, apply func(line []byte) error) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // opening a pipe would block
		return errForeign
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF && (n > 1 || bytes.HasPrefix([]byte(journalHeader), line)):
			return nil // a torn line
		case n == 1 && string(line) != journalHeader:
			return errForeign
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("line %d is longer than %d bytes", n, maxLine)
		case err != nil:
			return err
		case n > 1:
			if err := apply(line); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
	}
}

// full reports whether a line of n bytes makes a rewrite due.
func (j *journal) full(n int) bool { return j.size+int64(n) > j.limit }

// append adds a line, which ends in a line break. After an error the journal is as before.
func (j *journal) append(line []byte) error {
	if _, err := j.file.WriteAt(line, j.size); err != nil {
		return err
	}
	j.size += int64(len(line))
	return nil
}

// rewrite replaces the file by one of these lines. After an error the old lines stand. The file
// may grow to twice the size of the lines, and to minRewrite in any case, before the next one.
func (j *journal) rewrite(lines iter.Seq[[]byte]) error {
	tmp := j.path + ".new"
	os.Remove(tmp) // a killed process may have left it
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	n, _ := w.WriteString(journalHeader) // Flush returns the first error
	size := int64(n)
	for line := range lines {
		n, _ := w.Write(line)
		size += int64(n)
	}
	err = errors.Join(w.Flush(), f.Close())
	if err == nil {
		j.file.Close() // because Windows renames no open file
		if err = os.Rename(tmp, j.path); err == nil {
			j.size, j.limit = size, max(minRewrite, 2*size)
		}
		var reopen error
		j.file, reopen = os.OpenFile(j.path, os.O_WRONLY, 0)
		err = errors.Join(err, reopen)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

func (j *journal) close() error {
	defer j.unlock()
	return j.file.Close()
}
