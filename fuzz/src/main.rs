//! One target of [`syshold_fuzz::TARGETS`], chosen by `SYSHOLD_FUZZ` and driven by libFuzzer; `list`
//! names them all. `SYSHOLD_FUZZ_SEEDS` is a folder for the target's seeds. `cargo xtask fuzz` does this.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use syshold_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    TARGET.get_or_init(|| {
        let name = std::env::var("SYSHOLD_FUZZ").unwrap_or_default();
        if name == "list" {
            for target in &TARGETS {
                println!("{}\t{}", target.name, target.from);
            }
            std::process::exit(0);
        }
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("SYSHOLD_FUZZ names no target: {name:?}"))
    })
}

fn plant() {
    let seeds = (chosen().seeds)();
    let Some(folder) = std::env::var_os("SYSHOLD_FUZZ_SEEDS") else {
        return;
    };
    for (n, seed) in seeds.iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{n}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fuzz_target!(init: plant(), |data: &[u8]| (chosen().run)(data));
