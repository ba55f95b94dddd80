"""Everything load can be pointed at, as data: a catalogue entry and a config template each."""
