//! A Python with the libraries that others wrote for the protocols spoken here, made once under
//! `target/`.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The interpreter; needs python3 with venv, and PyPI, the first time.
pub(crate) fn python() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = venv.join("bin/python3");
    let ready = venv.join("ready");
    if std::fs::read_to_string(&ready).is_ok_and(|made| made == REQUIREMENTS) {
        return python;
    }
    let run = |program: &Path, args: &[&str]| {
        let status = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{} {args:?}: needs python3 with venv, and PyPI",
            program.display()
        );
    };
    let place = venv.display().to_string();
    run(Path::new("python3"), &["-m", "venv", "--clear", &place]);
    let list = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/gateway/requirements.txt"
    );
    run(&python, &["-m", "pip", "install", "--quiet", "-r", list]);
    std::fs::write(ready, REQUIREMENTS).unwrap();
    python
}

/// What `program` prints, given `input`.
pub(crate) fn tell(program: &str, args: &[&str], input: &str) -> String {
    run(
        Command::new(python()).args(["-c", program]).args(args),
        input,
    )
}

/// What a command prints, given `input`.
pub(crate) fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
