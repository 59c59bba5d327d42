package keyed

// RawKey is a key whose place a test chooses: the lowest 6 bits are its shard,
// those above its first set. The second set is the neighbour of the first.
func RawKey(hash uint64) Key {
	return Key{hash: hash&(shards-1) | hash/shards<<hashShift}
}

// Home is the first of the two sets, of a shard that is fully grown, that a key
// can lie in.
func (t *Table) Home(key Key) int { return int(key.hash>>hashShift) & (t.maxSets - 1) }

// Pack is what is owed in one lane, as a table keeps it.
func Pack(owed int64) (code uint64, kept int64) {
	code = pack(owed)
	return code, unpack(code)
}

// Flow is what flows in within d nanoseconds, in units.
func Flow(l Limit, d int64) int64 {
	lane := newLane(l)
	return lane.flow(d)
}
