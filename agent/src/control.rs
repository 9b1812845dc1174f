//! The local control socket: its words and its door.
