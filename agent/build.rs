//! Embeds the kernel programs that `cargo xtask build` compiled. Without them everything still
//! compiles (editors, lints, unit tests), and the daemon says at start what is missing.
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/syshold.bpf.o");
    println!("cargo::rerun-if-changed={}", built.display());
    let embedded = Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("syshold.bpf.o");
    let object = match fs::read(&built) {
        Ok(object) => object,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    fs::write(embedded, object)
}
