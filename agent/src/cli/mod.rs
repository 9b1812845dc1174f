//! The command line, `syshold`.
