package keyed

// RawKey is a key whose place a test chooses: the lowest 6 bits are its shard,
// those above its first set, the highest 8 choose the second.
func RawKey(hash uint64) Key { return Key{hash: hash} }
