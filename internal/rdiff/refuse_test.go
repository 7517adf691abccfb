package rdiff

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

const testBlock = 4096

// shrinking returns a basis, a smaller source, and the delta between them. Block 1
// and 3 are replaced, from block 6 on all is dropped.
func shrinking(t *testing.T) (basis, source, delta []byte) {
	rnd := rand.New(rand.NewPCG(5, 5))
	basis = make([]byte, 40*testBlock+9)
	for i := range basis {
		basis[i] = byte(rnd.Uint32())
	}
	clear(basis[4*testBlock : 5*testBlock])
	clear(basis[30*testBlock : 31*testBlock])
	source = bytes.Clone(basis[:5*testBlock+17])
	source[testBlock]++
	clear(source[3*testBlock : 4*testBlock])
	sig, _ := sign(t, FromImage(imageFile(t, basis, true)), header(stream.XXH64, testBlock, -1))
	delta, _, _ = diff(t, sig, FromImage(imageFile(t, source, true)), 0, int64(len(source)))
	return basis, source, delta
}

// TestProveOld: a change of what is replaced or dropped is found; what stays
// is not looked at.
func TestProveOld(t *testing.T) {
	basis, _, delta := shrinking(t)
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	target := imageFile(t, basis, true)
	change := func(at int64) error {
		if _, err := target.WriteAt([]byte{basis[at] ^ 0x10}, at); err != nil {
			t.Fatal(err)
		}
		err := ProveOld(bytes.NewReader(delta), d, target)
		if _, err := target.WriteAt(basis[at:at+1], at); err != nil {
			t.Fatal(err)
		}
		return err
	}
	for at := int64(0); at < int64(len(basis)); at += 331 {
		replaced := at/testBlock == 1 || at/testBlock == 3 || at/testBlock >= 5
		if err := change(at); replaced && err != ErrNotBasis || !replaced && err != nil {
			t.Errorf("byte %d of block %d changed: %v", at, at/testBlock, err)
		}
	}
	for _, at := range []int64{testBlock, 2*testBlock - 1, 5 * testBlock, 30 * testBlock, int64(len(basis)) - 1} {
		testkit.WantStatus(t, "edge changed", change(at), exit.NotBasis)
	}
	if err := ProveOld(bytes.NewReader(delta), d, target); err != nil {
		t.Error(err)
	}
	other := bytes.Clone(basis)
	copy(other[testBlock:], basis[3*testBlock:4*testBlock])
	copy(other[3*testBlock:], basis[testBlock:2*testBlock])
	testkit.WantStatus(t, "blocks exchanged", ProveOld(bytes.NewReader(delta), d, imageFile(t, other, true)), exit.NotBasis)
}

func TestInPlaceProvesBeforeItWrites(t *testing.T) {
	basis, _, delta := shrinking(t)
	refuse := errors.New("refused")
	for _, test := range []struct {
		name   string
		change int64
		header error
		write  error
		want   error
	}{
		{"another basis", testBlock, nil, nil, ErrNotBasis},
		{"header refused", 0, refuse, nil, refuse},
		{"write refused", 0, nil, refuse, refuse},
	} {
		content0 := bytes.Clone(basis)
		content0[test.change] ^= 1
		target := imageFile(t, content0, true)
		_, err := ApplyInPlace(bytes.NewReader(delta), target, int64(len(basis)), Steps{
			Header:      func(stream.Header) error { return test.header },
			BeforeWrite: func() error { return test.write },
		})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if !bytes.Equal(content(t, target), content0) {
			t.Errorf("%s: the target was written", test.name)
		}
	}

	// A dropped block that differs is found only at the end.
	other := bytes.Clone(basis)
	other[20*testBlock] ^= 1
	_, err := ApplyInPlace(bytes.NewReader(delta), imageFile(t, other, true), int64(len(basis)), Steps{})
	testkit.WantStatus(t, "dropped block", err, exit.NotBasis)
}

// TestInPlaceStaysInImage: a frame that goes beyond the size in the header would be
// written over what lies behind the image on a larger device.
func TestInPlaceStaysInImage(t *testing.T) {
	block := bytes.Repeat([]byte{7}, testBlock)
	device := bytes.Repeat([]byte{1}, 3*testBlock)
	for _, test := range []struct {
		size int64
		run  stream.Run
		data []byte
	}{
		{1, stream.Run{Count: 1}, block},
		{testBlock - 1, stream.Run{Count: 1}, block},
		{testBlock, stream.Run{First: 1, Count: 1}, block},
		{testBlock, stream.Run{First: 1, Count: 1}, block[:1]},
		{testBlock, stream.Run{Count: 2, Zero: true}, nil},
	} {
		delta := writeDelta(t, header(stream.XXH64, testBlock, test.size), stream.Image{}, stream.Image{Size: test.size},
			stream.Sum{}, change0{test.run, test.data})
		target := imageFile(t, device, true)
		// The end record, which shows that it is wrong, comes late.
		slow := io.MultiReader(bytes.NewReader(delta[:len(delta)-73]), &lateReader{bytes.NewReader(delta[len(delta)-73:])})
		_, err := ApplyInPlace(slow, target, 0, Steps{})
		testkit.WantStatus(t, "beyond the image", err, exit.BadStream)
		if !bytes.Equal(content(t, target), device) {
			t.Errorf("%+v: bytes beyond the image were written", test.run)
		}
	}
}

type lateReader struct{ io.Reader }

func (r *lateReader) Read(b []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return r.Reader.Read(b)
}

type change0 struct {
	stream.Run
	data []byte
}

// writeDelta writes one frame of whatever it is given.
func writeDelta(t *testing.T, h stream.Header, basis, source stream.Image, old stream.Sum, changes ...change0) []byte {
	t.Helper()
	var b bytes.Buffer
	w := stream.NewDeltaWriter(&b, h)
	f := stream.Frame{Old: old}
	var raw []byte
	for _, c := range changes {
		f.Runs = append(f.Runs, c.Run)
		raw = append(raw, c.data...)
	}
	new(stream.Encoder).Encode(&f, raw, nil)
	w.Frame(&f)
	if err := w.End(basis, source, old); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestVerify refuses deltas whose form is right.
func TestVerify(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	data := make([]byte, 2*testBlock)
	fill(rnd, data)
	h := header(stream.SHA256, testBlock, -1)
	source := digestOf(h.Hash, testBlock, data)
	basis := h.NewImage(source.Size, stream.Sum{})
	blocks := stream.Run{Count: 2}

	right := writeDelta(t, h, basis, source, stream.Sum{}, change0{blocks, data})
	if d, err := verify(right); err != nil || d.Source != source {
		t.Errorf("right delta: %+v, %v", d, err)
	}
	wrong := source
	wrong.Sum[3]++
	_, err := verify(writeDelta(t, h, basis, wrong, stream.Sum{}, change0{blocks, data}))
	testkit.WantStatus(t, "another source digest", err, exit.BadStream)
	_, err = verify(writeDelta(t, h, wrong, source, stream.Sum{}, change0{blocks, data}))
	testkit.WantStatus(t, "another basis digest", err, exit.BadStream)
	_, err = verify(writeDelta(t, h, basis, source, stream.Sum{1}, change0{blocks, data}))
	testkit.WantStatus(t, "other old terms", err, exit.BadStream)

	halfZero := append(bytes.Clone(data[:testBlock]), make([]byte, testBlock)...)
	_, err = verify(writeDelta(t, h, basis, digestOf(h.Hash, testBlock, halfZero), stream.Sum{}, change0{blocks, halfZero}))
	testkit.WantStatus(t, "literal block of zeroes", err, exit.BadStream)

	refuse := errors.New("refused")
	_, err = Verify(io.MultiReader(bytes.NewReader(right[:32]), neverReader{t}),
		Steps{Header: func(stream.Header) error { return refuse }})
	if err != refuse {
		t.Errorf("header refused: %v", err)
	}
}

// neverReader must not be asked: what it stands for has not come yet.
type neverReader struct{ t *testing.T }

func (r neverReader) Read([]byte) (int, error) {
	r.t.Error("the stream was read on although its header was refused")
	return 0, io.EOF
}

// TestEveryPrefix: no cut delta is taken for a whole one, in no pass, and none but
// the one in place writes.
func TestEveryPrefix(t *testing.T) {
	basis, _, delta := shrinking(t)
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	target := imageFile(t, basis, true)
	for n := 0; n < len(delta); n += 97 {
		_, err := verify(delta[:n])
		testkit.WantStatus(t, "Verify", err, exit.BadStream)
		testkit.WantStatus(t, "ProveOld", ProveOld(bytes.NewReader(delta[:n]), d, target), exit.BadStream)
	}
	if !bytes.Equal(content(t, target), basis) {
		t.Error("a pass that reads has written")
	}
	for n := 0; n < len(delta); n += 997 {
		target := imageFile(t, basis, true)
		_, err := ApplyInPlace(bytes.NewReader(delta[:n]), target, int64(len(basis)), Steps{})
		testkit.WantStatus(t, "ApplyInPlace", err, exit.BadStream)
	}
}

// TestDiffRefusesSignature: a signature that is cut, or lies, gives no end record.
func TestDiffRefusesSignature(t *testing.T) {
	basis, source, _ := shrinking(t)
	h := header(stream.XXH64, testBlock, -1)
	sig, digest := sign(t, FromImage(imageFile(t, basis, true)), h)
	img := imageFile(t, source, true)

	lying := func() []byte { // right but for the digest
		var b bytes.Buffer
		w := stream.NewSignatureWriter(&b, h)
		s := scanOf(t, basis, h)
		if err := s.sign(h, w); err != nil {
			t.Fatal(err)
		}
		digest.Sum[0]++
		if err := w.End(digest); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	streams := map[string][]byte{
		"cut before the end": sig[:len(sig)-1],
		"cut early":          sig[:100],
		"without end record": sig[:len(sig)-41],
		"lying":              lying,
	}
	for name, sig := range streams {
		var delta, newSig bytes.Buffer
		e, _ := stream.NewEncoder(1, 1)
		out := Outputs{stream.NewDeltaWriter(&delta, h), e, stream.NewSignatureWriter(&newSig, h)}
		_, err := Diff(signatureReader(t, sig), FromImage(img), out, Options{})
		testkit.WantStatus(t, name, err, exit.BadStream)
		out.Delta.Flush()
		if _, err := verify(delta.Bytes()); err == nil {
			t.Errorf("%s: the delta is complete", name)
		}
		_, err = Diff(signatureReader(t, sig), FromImage(img), Outputs{}, Options{})
		testkit.WantStatus(t, name+" (check)", err, exit.BadStream)
		testkit.WantStatus(t, name+" (verify)", verifySignature(sig), exit.BadStream)
	}
}

func verifySignature(sig []byte) error {
	r, err := stream.NewSignatureReader(bytes.NewReader(sig))
	if err != nil {
		return err
	}
	return VerifySignature(r)
}

func scanOf(t *testing.T, image []byte, h stream.Header) *scan {
	t.Helper()
	s := newScan(h)
	if len(image) > len(s.buf) {
		t.Fatal("image too large for one piece")
	}
	s.size, s.data = int64(len(image)), image
	s.hash(h)
	return &s
}
