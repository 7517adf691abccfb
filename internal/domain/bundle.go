package domain

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A bundle is what is needed besides the disks to start a domain on another host: a tar
// file with the variables of its UEFI firmware and the state of its TPM, by their paths
// without the first slash, and at last the document. So a bundle that was cut has none.
// Where nothing else belongs to the domain it is the document alone.

const (
	maxMember  = 16 << 20 // bytes of one file
	maxMembers = 256
)

// writeBundle writes a bundle with text as the document. Words say what is left out.
func (d *Document) writeBundle(w io.Writer, text []byte) (words []string, err error) {
	if len(d.Domain.belongings()) == 0 {
		_, err := w.Write(text)
		return nil, err
	}
	out := tar.NewWriter(w)
	for _, root := range d.Domain.belongings() {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && os.Getuid() != 0 {
				return nil // not made yet; or a lock, or a file in the making, that is gone
			}
			if err != nil {
				return err
			}
			word, err := addMember(out, path)
			if word != "" {
				words = append(words, word)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: d.Domain.Name + d.format().suffix(), Mode: 0o600, Size: int64(len(text))}
	if err := out.WriteHeader(header); err != nil {
		return nil, err
	}
	_, err = out.Write(text)
	return words, errors.Join(err, out.Close())
}

// belongings are the files and directories that are a part of the domain.
func (d *Domain) belongings() (paths []string) {
	for _, path := range []string{d.NVRAM, d.TPM} {
		if strings.HasPrefix(path, "/") {
			paths = append(paths, filepath.Clean(path))
		}
	}
	return paths
}

// addMember adds one file or directory. It is read whole first: it may become longer.
func addMember(out *tar.Writer, path string) (word string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	var content []byte
	switch {
	case info.IsDir():
	case !info.Mode().IsRegular():
		return path + " is no regular file", nil
	default:
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		} else if err != nil {
			return "", err
		}
		defer f.Close()
		if content, err = io.ReadAll(io.LimitReader(f, maxMember+1)); err != nil {
			return "", err
		}
		if len(content) > maxMember {
			return fmt.Sprintf("%s is longer than %d MiB", path, maxMember>>20), nil
		}
	}
	header, err := tar.FileInfoHeader(info, "") // with the names of its owner and group
	if err != nil {
		return "", err
	}
	header.Name = strings.TrimPrefix(path, "/")
	if header.Size = int64(len(content)); info.IsDir() {
		header.Name += "/"
	}
	if err := out.WriteHeader(header); err != nil {
		return "", err
	}
	_, err = out.Write(content)
	return "", err
}

// readBundle reads a bundle, or a document alone. The files that are in it are written to
// files as a tar file of their own; it returns how many there are. What does not belong
// to the domain is refused: the file will be unpacked by root.
func readBundle(r io.Reader, files io.Writer) (d *Document, members int, err error) {
	// A tar file has its magic at 257 of the first header.
	head := make([]byte, 262)
	n, err := io.ReadFull(r, head)
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	if n < len(head) || !bytes.HasSuffix(head, []byte("ustar")) {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, 0, err
		}
		d, err := readDocument(r)
		return d, 0, err
	}
	in, out := tar.NewReader(r), tar.NewWriter(files)
	var paths []string
	for d == nil {
		header, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, 0, errors.New("the bundle is cut: no document in it")
		case err != nil:
			return nil, 0, err
		case !strings.Contains(header.Name, "/"):
			if d, err = readDocument(in); err != nil {
				return nil, 0, err
			}
		default:
			path, err := copyMember(out, in, header, len(paths))
			if err != nil {
				return nil, 0, err
			}
			paths = append(paths, path)
		}
	}
	if _, err := in.Next(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("the bundle goes on behind its document")
	}
	if err := d.carry(paths); err != nil {
		return nil, 0, err
	}
	return d, len(paths), out.Close()
}

// copyMember copies a file or directory of a bundle, which has so many others before it, and returns its path.
func copyMember(out *tar.Writer, in *tar.Reader, header *tar.Header, members int) (path string, err error) {
	if header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeDir || header.Size > maxMember || members == maxMembers {
		return "", fmt.Errorf("%s in the bundle: not a small file or a directory, or too many", header.Name)
	}
	header.Mode &= 0o777 // nothing of it runs as its owner
	if err := out.WriteHeader(header); err != nil {
		return "", err
	}
	var head [qcow2Head]byte
	n, err := io.ReadFull(in, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if isQcow2(head[:n]) { // the variables of firmware may be one
		if other := qcow2Needs(head[:], false); other != "" {
			return "", fmt.Errorf("%s in the bundle is a qcow2 image %s", header.Name, other)
		}
	}
	_, err = io.Copy(out, io.MultiReader(bytes.NewReader(head[:n]), in))
	return filepath.Clean("/" + header.Name), err
}

// carry demands that all files that came with the document belong to the domain.
func (d *Document) carry(paths []string) error {
	for _, path := range paths {
		within := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
		if !slices.ContainsFunc(d.Domain.belongings(), within) {
			return fmt.Errorf("%s in the bundle is nothing of %s", path, d.Domain.Name)
		}
	}
	d.carried = paths
	return nil
}

// readFiles reads the files that came with the document and were kept beside it, and writes them to files.
func (d *Document) readFiles(r io.Reader, files io.Writer) error {
	in, out := tar.NewReader(r), tar.NewWriter(files)
	var paths []string
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		path, err := copyMember(out, in, header, len(paths))
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	return errors.Join(d.carry(paths), out.Close())
}
