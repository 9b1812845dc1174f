//! `syshold-pages DIR`: man pages and shell completions below DIR/usr/share, made of the very
//! definitions that parse the command lines, so that they cannot say anything else.
//! `sysholdd` has one verb and a story to tell: its page, docs/man/sysholdd.8, is written by hand.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::{Shell, generate_to};

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os()
        .nth(1)
        .context("syshold-pages DIR")?
        .into();
    let share = dir.join("usr/share");
    page(syshold_agent::cli::command(), &share)?;
    page(syshold_approver::cli::command(), &share)
}

fn page(command: Command, share: &Path) -> Result<()> {
    let man = made(share.join("man/man1"))?;
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), man)?;
    let name = command.get_name().to_owned();
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/vendor-completions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let dir = made(share.join(place))?;
        let file = generate_to(shell, &mut command.clone(), &name, &dir)?;
        if shell == Shell::Bash {
            // bash-completion loads a file by the command's own name.
            fs::rename(&file, dir.join(&name))?;
        }
    }
    Ok(())
}

fn made(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_every_shell_its_file() {
        let dir = tempfile::tempdir().unwrap();
        page(syshold_agent::cli::command(), dir.path()).unwrap();
        page(syshold_approver::cli::command(), dir.path()).unwrap();
        for file in [
            "man/man1/syshold.1",
            "man/man1/syshold-run.1",
            "man/man1/syshold-policy-check.1",
            "man/man1/syshold-ledger-verify.1",
            "man/man1/syshold-approver-serve.1",
            "bash-completion/completions/syshold",
            "zsh/vendor-completions/_syshold-approver",
            "fish/vendor_completions.d/syshold.fish",
        ] {
            let text = fs::read_to_string(dir.path().join(file)).expect(file);
            assert!(text.contains("syshold"), "{file}");
        }
        // Nothing that is hidden from --help is told here.
        let page = fs::read_to_string(dir.path().join("man/man1/syshold.1")).unwrap();
        assert!(
            page.contains("69 the daemon") && !page.contains("socket"),
            "{page}"
        );
    }
}
