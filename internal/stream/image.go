package stream

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Image is an image digest: two images are the same if these values are equal. It says
// how the sum was made, because sums over other blocks or with another hash say nothing
// of each other: see Comparable. The zero Image is that of no image.
type Image struct {
	BlockSize int // bytes
	Hash      Hash
	Size      int64 // bytes
	Sum       Sum   // over the blocks
}

// NewImage returns the digest of an image that was read with that block size and hash.
func (h Header) NewImage(size int64, sum Sum) Image { return Image{h.BlockSize, h.Hash, size, sum} }

// Comparable reports whether it can be told if two images are the same. Where it cannot,
// they are never taken to be.
func (i Image) Comparable(o Image) bool { return i.BlockSize == o.BlockSize && i.Hash == o.Hash }

// Digest returns the sum as a hexadecimal number, most significant digit first.
func (i Image) Digest() string { return i.Hash.formatSum(i.Sum) }

// String describes the image in a message.
func (i Image) String() string {
	return fmt.Sprintf("%s %s of %d bytes in blocks of %d", i.Hash, i.Digest(), i.Size, i.BlockSize)
}

// Text returns the image as one word, for ParseImage: HASH:BLOCKSIZE:SIZE:DIGEST.
func (i Image) Text() string {
	return fmt.Sprintf("%s:%d:%d:%s", i.Hash, i.BlockSize, i.Size, i.Digest())
}

// ParseImage reads what Text returns, and nothing else.
func ParseImage(text string) (Image, error) {
	words := strings.Split(text, ":")
	if len(words) != 4 {
		return Image{}, fmt.Errorf("%q is not HASH:BLOCKSIZE:SIZE:DIGEST", text)
	}
	blockSize, err := strconv.Atoi(words[1])
	if err != nil {
		return Image{}, err
	}
	size, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		return Image{}, err
	}
	i, err := ImageFields{size, blockSize, words[0], words[3]}.Image()
	if err == nil && i.Text() != text {
		err = fmt.Errorf("%q is not as it is written here: %s", text, i.Text())
	}
	return i, err
}

// ImageFields are an Image as it stands in JSON, alone or among other fields.
type ImageFields struct {
	Size      int64  `json:"size,omitempty"`
	BlockSize int    `json:"block_size,omitempty"`
	Hash      string `json:"hash,omitempty"`
	Digest    string `json:"digest,omitempty"`
}

// Fields returns the image's fields; those of the zero Image are empty.
func (i Image) Fields() ImageFields {
	if i == (Image{}) {
		return ImageFields{}
	}
	return ImageFields{i.Size, i.BlockSize, i.Hash.String(), i.Digest()}
}

// Image returns the image of these fields. Values that no stream can have are an error: an
// image that nothing can equal would pass for one that has changed.
func (f ImageFields) Image() (Image, error) {
	hash, err := ParseHash(f.Hash)
	if err != nil {
		return Image{}, err
	}
	if err := CheckBlockSize(int64(f.BlockSize)); err != nil {
		return Image{}, err
	}
	if f.Size < 0 || f.Size > MaxImageSize {
		return Image{}, fmt.Errorf("no image has %d bytes", f.Size)
	}
	sum, err := hash.parseSum(f.Digest)
	return Image{f.BlockSize, hash, f.Size, sum}, err
}

func (i Image) MarshalJSON() ([]byte, error) { return json.Marshal(i.Fields()) }

func (i *Image) UnmarshalJSON(text []byte) error {
	var f ImageFields
	err := json.Unmarshal(text, &f)
	if err == nil && f != (ImageFields{}) {
		*i, err = f.Image()
	}
	return err
}

// parseSum reads what formatSum returns.
func (h Hash) parseSum(text string) (Sum, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != h.Size() {
		return Sum{}, fmt.Errorf("%q is no digest of %s", text, h)
	}
	for i := range len(b) / 2 { // it is written from the other end
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return h.sum(b), nil
}
