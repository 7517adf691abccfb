package runs

import (
	"encoding/json"
	"io"
	"os"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// Sent is what xb-delta's summary tells.
type Sent struct {
	Image                     stream.Image
	Source                    string // that was read, by its identity; "" if that was not told
	BytesRead, Changed, Bytes int64
	Seconds                   float64
	Tracked                   bool // only what the storage says has changed was read
}

// ReadSent reads what xb-delta's --summary has left. That of a run which failed is missing or of no image.
func ReadSent(file string) (*Sent, error) {
	var s struct {
		Command      string  `json:"command"`
		ImageSize    int64   `json:"image_size"`
		BlockSize    int     `json:"block_size"`
		Hash         string  `json:"hash"`
		Digest       string  `json:"digest"`
		BytesRead    int64   `json:"bytes_read"`
		BytesChanged int64   `json:"bytes_changed"`
		BytesSent    int64   `json:"bytes_sent"`
		Seconds      float64 `json:"seconds"`
		Tracked      bool    `json:"tracked"`
		Source       string  `json:"source"`
	}
	if err := readSummary(file, &s); err != nil {
		return nil, err
	}
	if s.Command != "xb-delta" || s.BytesSent == 0 {
		return nil, exit.Fail(exit.BadStream, "%s is no summary of an xb-delta that sent a delta", file)
	}
	image, err := stream.ImageFields{Size: s.ImageSize, BlockSize: s.BlockSize, Hash: s.Hash, Digest: s.Digest}.Image()
	if err != nil {
		return nil, exit.Fail(exit.BadStream, "%s is no summary of xb-delta: %w", file, err)
	}
	return &Sent{Image: image, BytesRead: s.BytesRead, Changed: s.BytesChanged, Bytes: s.BytesSent, Seconds: s.Seconds,
		Tracked: s.Tracked, Source: s.Source}, nil
}

// ReadFirstChanged reads from the --summary of xb-delta --check where the first differences begin, in bytes.
func ReadFirstChanged(file string) ([]int64, error) {
	var s struct {
		At []int64 `json:"first_changed"`
	}
	err := readSummary(file, &s)
	return s.At, err
}

func readSummary(file string, into any) error {
	f, err := os.Open(file)
	if err != nil {
		return exit.OpenFailed(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return exit.Fail(exit.BadStream, "%s is no summary of xb-delta: %w", file, err)
	}
	return nil
}
