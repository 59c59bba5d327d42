package keyed

// RawKey is a key whose place a test chooses: the lowest 6 bits are its shard,
// those above its first set, the highest 8 choose the second.
func RawKey(hash uint64) Key { return Key{hash: hash} }

// Home is the first of the two sets, of a shard that is fully grown, that a key
// can lie in.
func (t *Table) Home(key Key) int { return int(key.hash>>6) & (t.maxSets - 1) }
