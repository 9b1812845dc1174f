//! What the documents promise is there: every test that docs/architecture.md names.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may fail like the test"
)]
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_tests_that_the_architecture_page_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches('|').count() == 4);
    let column = rows.filter_map(|row| row.split('|').nth(3));
    let names: HashSet<String> = column
        .flat_map(words_in_backticks)
        .filter(|word| word.matches('_').count() >= 2)
        .collect();
    assert!(
        names.len() > 20,
        "the table is not where this test looks: {names:?}"
    );

    let mut tests = HashSet::new();
    for part in [
        "agent/src",
        "agent/tests",
        "approver",
        "ledger",
        "protocol",
        "tests/cases",
    ] {
        collect_tests(&root.join(part), &mut tests);
    }
    let mut missing: Vec<_> = names.difference(&tests).collect();
    missing.sort();
    assert!(
        missing.is_empty(),
        "docs/architecture.md names tests that are not there: {missing:?}"
    );
}

fn words_in_backticks(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Names of functions right below a `#[test]`, and of `test_*` functions of the cases.
fn collect_tests(folder: &Path, names: &mut HashSet<String>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect_tests(&path, names);
        } else if path
            .extension()
            .is_some_and(|ext| ext == "rs" || ext == "py")
        {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(name) = function(line) {
                    if is_test || name.starts_with("test_") {
                        names.insert(name.to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
}

fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = line
        .strip_prefix("fn ")
        .or_else(|| line.strip_prefix("def "))?;
    rest.split('(').next()
}
