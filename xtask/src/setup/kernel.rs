//! Test kernels: the newest package of a pattern, its modules as a disk, and an initramfs.
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::Suite;
use crate::layout::{Kernel, Pins, vm_cache, workspace};
use crate::setup::{image, qemu};
use crate::sh;

/// What the initramfs loads, in any order: what they need comes first. Built-in ones are skipped.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
    "virtio_rng",
    "crct10dif_pclmul",
];

#[derive(Debug, Clone)]
pub(crate) struct KernelFiles {
    pub(crate) pin: Kernel,
    pub(crate) image: PathBuf,
    pub(crate) modules_disk: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// As `uname -r` says it.
    pub(crate) release: String,
}

pub(crate) fn ready(pins: &Pins, pin: &Kernel, refresh: bool) -> Result<KernelFiles> {
    let dir = vm_cache().join("kernels").join(&pin.name);
    let root = dir.join("root");
    let done = dir.join("unpacked");
    let key = sh::key([serde_json::to_string(&(&pin.suite, &pin.packages))?]);
    if refresh || !std::fs::read_to_string(&done).is_ok_and(|had| had.lines().next() == Some(&key))
    {
        sh::step(
            "setup",
            &format!("kernel {} from {}", pin.name, pin.suite),
            || unpack(pin, &root, &done, &key),
        )?;
    }
    let (image, release) = find_image(&root)?;
    let modules_disk = dir.join("modules.ext4");
    if refresh || !modules_disk.exists() {
        let modules = root.join("lib/modules");
        sh::run(
            Command::new(sh::on_path("depmod").context("no depmod: install kmod")?)
                .arg("-b")
                .arg(&root)
                .arg(&release),
        )?;
        image::from_dir(
            &mut Command::new(image::mkfs()?),
            &modules,
            &modules_disk,
            32,
        )?;
    }
    let initramfs = initramfs(pins, &root, &release, &dir)?;
    Ok(KernelFiles {
        pin: pin.clone(),
        image,
        modules_disk,
        initramfs,
        release,
    })
}

fn unpack(pin: &Kernel, root: &Path, done: &Path, key: &str) -> Result<()> {
    let suite = Suite::open(&pin.suite)?;
    let packages: Vec<String> = pin
        .packages
        .iter()
        .map(|pattern| suite.newest(pattern))
        .collect::<Result<_>>()?;
    let mut record = format!("{key}\n");
    for package in &packages {
        let line = format!("{package} {} ({})", suite.version(package)?, pin.suite);
        sh::say("setup", &line);
        record = record + &line + "\n";
    }
    let dir = root.parent().context("a kernel's root has a parent")?;
    let _ = std::fs::remove_dir_all(dir);
    suite.unpack(&packages, false, root)?;
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    Ok(std::fs::write(done, record)?)
}

fn find_image(root: &Path) -> Result<(PathBuf, String)> {
    for file in sh::files_below(root)? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok((file, release.to_owned()));
        }
        // Newer packages keep the image beside the modules.
        if name == "vmlinuz"
            && let Some(release) = file.parent().and_then(Path::file_name)
        {
            let release = release.to_string_lossy().into_owned();
            return Ok((file, release));
        }
    }
    anyhow::bail!(
        "no vmlinuz below {}: delete that directory and run setup again",
        root.display()
    )
}

fn initramfs(pins: &Pins, root: &Path, release: &str, dir: &Path) -> Result<PathBuf> {
    let script = std::fs::read(workspace().join("tests/init/initramfs"))?;
    let busybox = std::fs::read(qemu::busybox(pins)?)?;
    let key = sh::key([
        &script[..],
        &busybox,
        release.as_bytes(),
        MODULES.join(" ").as_bytes(),
    ]);
    let path = dir.join(format!("initramfs-{key}.cpio"));
    if path.exists() {
        return Ok(path);
    }
    let modules = root.join("lib/modules").join(release);
    let mut archive = Cpio::default();
    for directory in ["bin", "dev", "modules", "newroot", "proc", "sys"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("bin/busybox", 0o100_755, &busybox);
    archive.add("init", 0o100_755, &script);
    let mut order = String::new();
    for (name, file) in load_order(&modules)? {
        archive.add(
            &format!("modules/{name}.ko"),
            0o100_644,
            &module_bytes(&file)?,
        );
        order += &format!("{name}\n");
    }
    archive.add("modules/order", 0o100_644, order.as_bytes());
    std::fs::File::create(&path)?.write_all(&archive.finish())?;
    Ok(path)
}

/// Names and files of `MODULES` and of what they depend on, dependencies first.
fn load_order(modules: &Path) -> Result<Vec<(String, PathBuf)>> {
    let text = std::fs::read_to_string(modules.join("modules.dep"))
        .context("no modules.dep: depmod failed?")?;
    let mut needs = HashMap::new();
    let mut by_name = HashMap::new();
    for (file, deps) in text.lines().filter_map(|line| line.split_once(':')) {
        by_name.insert(module_name(file), file);
        needs.insert(file, deps.split_whitespace().collect::<Vec<_>>());
    }
    let mut order: Vec<&str> = Vec::new();
    fn visit<'a>(file: &'a str, needs: &HashMap<&'a str, Vec<&'a str>>, order: &mut Vec<&'a str>) {
        if order.contains(&file) {
            return;
        }
        for dep in needs.get(file).into_iter().flatten() {
            visit(dep, needs, order);
        }
        order.push(file);
    }
    for name in MODULES {
        if let Some(file) = by_name.get(name) {
            visit(file, &needs, &mut order);
        }
    }
    Ok(order
        .into_iter()
        .map(|file| (module_name(file), modules.join(file)))
        .collect())
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn module_bytes(file: &Path) -> Result<Vec<u8>> {
    let unpack = match file.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(std::fs::read(file)?),
    };
    let out = Command::new(unpack)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {unpack}"))?;
    anyhow::ensure!(
        out.status.success(),
        "{unpack} cannot read {}",
        file.display()
    );
    Ok(out.stdout)
}

/// A cpio archive in the kernel's "newc" format.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let links = 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
