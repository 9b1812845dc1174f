//! Embeds the kernel programs that `cargo xtask build` compiled. Without them everything still
//! compiles (editors, lints, unit tests), and the daemon says at start what is missing.
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    // Asked when it runs: a build script that another checkout compiled still finds this one's.
    let here = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let built = Path::new(&here).join("../target/bpf/syshold.bpf.o");
    println!("cargo::rerun-if-changed={}", built.display());
    let embedded = Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("syshold.bpf.o");
    let object = match fs::read(&built) {
        Ok(object) => object,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    fs::write(embedded, object)
}
