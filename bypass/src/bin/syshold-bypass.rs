//! The attacker of `syshold selftest`: started by it, once governed and once not. The other words
//! are for what it starts itself.
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    let done = match verb.to_str() {
        Some("attack") => syshold_bypass::runner::serve(),
        Some("victim") => victim(words.next().unwrap_or_default().as_ref()),
        Some("show") => show(words.next().unwrap_or_default().as_ref()),
        Some("hello") => {
            println!("hello {}", words.next().unwrap_or_default().display());
            Ok(())
        }
        _ => {
            eprintln!("syshold-bypass is run by `syshold selftest`");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The harness is gone.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(u8::try_from(error.raw_os_error().unwrap_or(1)).unwrap_or(1))
        }
    }
}

/// Says where its secret is and has the file open, until its standard input is closed.
fn victim(file: &std::path::Path) -> std::io::Result<()> {
    let secret = std::env::var("SECRET").unwrap_or_default();
    let file = std::fs::File::open(file)?;
    let (address, len) = (secret.as_ptr() as usize, secret.len());
    println!("{address} {len} {}", file.as_raw_fd());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(secret);
    Ok(())
}

fn show(file: &std::path::Path) -> std::io::Result<()> {
    std::io::stdout().write_all(&std::fs::read(file)?)
}
