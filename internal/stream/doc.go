// Package stream reads and writes the two formats that travel between the
// filters: the signature (what xb-sig says of a target) and the delta (what
// xb-delta sends to make the target equal to the source). This comment is their
// specification; xb-stream(5) repeats it for users.
//
// # Conventions
//
// Integers are unsigned and little-endian unless said otherwise. B is the block
// size in bytes, H the size of a hash: 8 bytes for xxh64, 32 for sha256. Block i
// of an image of S bytes covers the bytes from i*B to min((i+1)*B, S); only the
// last block may be shorter than B. A block that is all zero is a zero block,
// whether it was read or is a hole. S is at most 2^62.
//
// A stream is a header, records, and an end record, and then nothing: every
// proper prefix is an error (cut) and so is one byte more. A first byte, magic or
// version other than these is "not ours", and so is a header with another flag or
// hash whose checksum is right, for somebody meant that; anything else that breaks
// a rule of this page is a "bad stream". A reader checks each length against the
// constants of this package before it allocates.
//
// The encoding is canonical: one image (or pair of images) has one encoding for
// a block size, hash and compression, however its bytes were read.
//
// # Header (32 bytes)
//
//	offset size
//	0      8    magic: 89 'x' 'b' 's' 'i' 'g' 0d 0a (signature)
//	                   89 'x' 'b' 'd' 'l' 't' 0d 0a (delta)
//	8      2    version: 1
//	10     1    hash: 1 xxh64, 2 sha256
//	11     1    block size as its power of two: 12 (4 KiB) to 20 (1 MiB)
//	12     4    flags: bit 0, the image size is known; another bit: another format
//	16     8    image size (signature: of the target, delta: of the source) in
//	            bytes, a hint for progress and early refusals; 0 if not known
//	24     8    xxh64 of bytes 0 to 23
//
// The first byte can't begin a line of text, and the magic ends with CR LF: noise
// from a login shell and a link that changes line ends are both seen at once.
//
// # Signature
//
// The records describe the blocks of the image in order, from block 0.
//
//	hash record          offset size
//	                     0      1    'H'
//	                     1      4    n, the number of blocks: 1 to 1024
//	                     5      n*H  their hashes; xxh64 as an integer
//	zero record          0      1    'Z'
//	                     1      8    n, the number of zero blocks: at least 1
//	end record           0      1    'E'
//	                     1      8    image size in bytes
//	                     9      8    number of blocks in hash records
//	                     17     8    number of blocks in zero records
//	                     25     H    sum of the image digest
//	                     25+H   8    xxh64 of the stream up to here
//
// A zero record stands for a whole run: no zero record follows another. A hash
// record follows another only if that one holds 1024 hashes.
//
// # Delta
//
// A delta is a list of frames. A frame has a table of runs and the data of those
// runs that are literal. Runs are the records of the delta, of two kinds: literal
// (the blocks' new content follows) and zero (the blocks become zero). They are in
// ascending order and don't overlap, in the frame and from frame to frame: a
// block's content is only ever meant for its own offset, so a target may be
// written while it still is read further on.
//
//	frame                offset size
//	                     0      1    'F'
//	                     1      1    encoding of the payload: 0 stored, 1 zstd
//	                     2      4    T, size of the table: 2 to 81920
//	                     6      4    R, bytes of literal data: at most 1 MiB
//	                     10     4    P, size of the payload: R if stored, less if zstd
//	                     14     8    xxh64 of the literal data
//	                     22     H    sum of the old terms (see below) of the
//	                                 frame's blocks
//	                     22+H   T    table
//	                     ...    P    payload: the literal data, as zstd data (RFC 8878) if zstd
//	                     ...    8    xxh64 of the frame up to here
//
// The table has two numbers for each run, as unsigned LEB128 in the shortest form:
// the gap in blocks between the end of the run before it (of the delta; block 0
// for the first) and its own first block, and count*2 + kind with kind 0 for
// literal and 1 for zero. A table has at most 4096 runs. Adjacent blocks of one
// kind are one run unless the frame is full: a frame ends only where the next
// block doesn't fit in, because the literal data would exceed 1 MiB or the table
// 4096 runs, or where the delta ends. No literal block is all zero.
//
//	end record           offset size
//	                     0      1    'E'
//	                     1      8    basis: image size in bytes
//	                     9      H    basis: sum of the image digest
//	                     9+H    8    source: image size in bytes
//	                     17+H   H    source: sum of the image digest
//	                     17+2H  H    sum of all old terms
//	                     17+3H  8    number of frames
//	                     25+3H  8    number of literal blocks
//	                     33+3H  8    number of zero blocks
//	                     41+3H  8    xxh64 of the stream up to here
//
// A block is in the delta if its content or its length differs from the basis's
// block of that number, or if the basis has none. Blocks that only the basis has
// are dropped by the new size alone.
//
// # Image digest
//
// The digest of an image is the pair of its size and a sum: over all blocks i that
// are not zero, of the term h(i, hash of block i), where h is the stream's hash over
// the 8 bytes of i and the H bytes of the block's hash. xxh64 sums are modulo 2^64;
// sha256 terms are little-endian integers, summed modulo 2^256. A zero block adds
// 0. The sum does not depend on the order, and can be kept up in proportion to
// change: source = basis - old terms + terms of the delta's literal blocks, where
// the old terms are those of the basis's blocks that are replaced or dropped. A
// reader demands that equation. The sum of old terms lets xb-patch find out whether
// the blocks it is about to replace still are the basis's.
//
// An additive sum is weaker than the hash it is made of: it tells images apart
// that differ by accident, and is no commitment against somebody who chooses
// blocks so that their terms cancel. Which blocks are sent is decided by the block
// hashes alone. xxh64 is not collision-resistant either: see [XXH64].
package stream
