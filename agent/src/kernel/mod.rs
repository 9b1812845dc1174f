//! The only unsafe: programs, maps, offsets, pidfds.
