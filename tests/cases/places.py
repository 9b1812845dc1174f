"""A protected folder is one wherever it lies and however it is reached: other file systems, mounts, containers."""

import pathlib
import shutil

import setting
import syshold

PLACES = pathlib.Path("/srv/places")
# On an overlay, in two of its layers: the kernel opens it in one, under a number of its own.
MERGED = pathlib.Path("/mnt/merged")
# What the approver is shown of a file that is reached by another name is its own.
SECRET = "secret of the place\n"

POLICY = f"""
[[govern]]
name = "test-agent"
owner = "owner@example.com"

[[govern]]
name = "builder"
owner = "owner@example.com"
allow = ["user-namespaces"]

[[protect]]
name = "places"
paths = ["{PLACES}", "{MERGED}/data"]
class = "pii"

[[rule]]
name = "places"
action = ["read", "write", "delete"]
data = ["places"]
verdict = "ask"
scopes = ["once", "process"]
"""


def mount(*words, at):
    at.mkdir(parents=True, exist_ok=True)
    syshold.sh(syshold.quote("mount", *words, at))
    syshold.at_end(syshold.sh, f"umount --lazy {at}")


def btrfs():
    """A subvolume: its device number is not the one that `stat` says."""
    disk = pathlib.Path("/tmp/btrfs.img")
    syshold.sh(f"modprobe -a loop btrfs; truncate --size=160M {disk} && mkfs.btrfs --quiet --force {disk}")
    mount("-o", "loop", disk, at=PLACES / "btrfs")
    syshold.sh(f"btrfs --quiet subvolume create {PLACES / 'btrfs' / 'sub'}")
    (PLACES / "btrfs" / "sub" / "deep").mkdir()
    return PLACES / "btrfs" / "sub" / "deep"


def root_on_an_overlay():
    """The secret in the lower of two layers that both have the protected folder."""
    lower, upper, work = (pathlib.Path("/srv/merged") / name for name in ("lower", "upper", "work"))
    for folder in (lower / "data", upper / "data", work):
        folder.mkdir(parents=True, exist_ok=True)
    (lower / "data" / "secret").write_text(SECRET)
    mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "none", at=MERGED)
    return MERGED / "data" / "secret"


def lay_out():
    """Each way to read the secret, by what it is called: command, agent."""
    shutil.rmtree(PLACES, ignore_errors=True)
    # podman maps one user then, and needs no program with privileges for it.
    syshold.sh(": > /etc/subuid; : > /etc/subgid")
    plain = PLACES / "plain"
    plain.mkdir(parents=True)
    deep = btrfs()
    mount("-t", "tmpfs", "none", at=PLACES / "tmpfs")
    for folder in (plain, deep, PLACES / "tmpfs"):
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o644)
    bound, over = pathlib.Path("/mnt/bound"), pathlib.Path("/mnt/over")
    mount("--bind", plain, at=bound)
    for name in ("upper", "work"):
        pathlib.Path("/tmp/over", name).mkdir(parents=True, exist_ok=True)
    syshold.sh("modprobe overlay")
    mount("-t", "overlay", "-o", f"lowerdir={PLACES},upperdir=/tmp/over/upper,workdir=/tmp/over/work", "none", at=over)
    box = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--")
    moved = ("bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib64", "/lib64", "--ro-bind", PLACES, "/data", "--")
    return {
        "btrfs subvolume": ("test-agent", "cat", deep / "secret"),
        "tmpfs below": ("test-agent", "cat", PLACES / "tmpfs" / "secret"),
        "bind mount": ("test-agent", "cat", bound / "secret"),
        "overlay": ("test-agent", "cat", over / "plain" / "secret"),
        "overlay of tmpfs": ("test-agent", "cat", "/mnt/over/btrfs/../plain/secret"),
        "root on an overlay": ("test-agent", "cat", root_on_an_overlay()),
        "bubblewrap": ("builder", *box, "cat", plain / "secret"),
        "bubblewrap, elsewhere": ("builder", *moved, "/usr/bin/cat", "/data/plain/secret"),
        "podman": ("builder", "podman", "unshare", "cat", plain / "secret"),
    }


def overlay_that_writes_to_a_protected_folder():
    """Two files in it."""
    upper, work, shown = PLACES / "upper", pathlib.Path("/srv/places-work"), pathlib.Path("/mnt/shown")
    for folder in (upper, work, pathlib.Path("/srv/places-lower")):
        folder.mkdir(exist_ok=True)
    for name in ("one", "other"):
        (upper / name).write_text(SECRET)
    mount("-t", "overlay", "-o", f"lowerdir=/srv/places-lower,upperdir={upper},workdir={work}", "none", at=shown)
    return shown / "one", shown / "other"


def cleared(person, child, how):
    """What the child says after each of its requests was answered; how many there were."""
    answered = 0
    while child.poll() is None:
        for approval in person.pending():
            how(person, approval)
            answered += 1
    return *syshold.finish(child), answered


@syshold.limit(240)
def test_a_protected_folder_is_held_wherever_it_lies():
    ways = lay_out()
    one, other = overlay_that_writes_to_a_protected_folder()
    syshold.sh(f"gpasswd --add {setting.USER} syshold")
    person = syshold.start(POLICY)
    for what, (agent, *words) in ways.items():
        user = setting.USER if agent == "builder" else None
        control = setting.ungoverned(*words, user=user)
        assert control.stdout == SECRET, (what, control)
        status, out, err, asked = cleared(person, syshold.governed(*words, agent=agent, user=user), syshold.deny)
        assert status != 0 and SECRET not in out and asked == 1, (what, status, out, err, asked)
        assert "not permitted" in err, (what, err)
        status, out, err, asked = cleared(person, syshold.governed(*words, agent=agent, user=user), syshold.approve)
        assert (status, out) == (0, SECRET) and asked == 1, (what, status, out, err, asked)
        syshold.note(f"{what}: held, denied and approved")
    # Each is one question, though the kernel opens a file in the layer, too.
    for words, act in ((("cat", one), SECRET), (("tee", "-a", one), ""), (("rm", "-f", one), "")):
        status, _, err, asked = cleared(person, syshold.governed(*words), syshold.deny)
        assert status != 0 and asked == 1 and "not permitted" in err, (words, status, err, asked)
        status, out, err, asked = cleared(person, syshold.governed(*words), syshold.approve)
        assert (status, out) == (0, act) and asked == 1, (words, status, out, err, asked)
    assert not one.exists() and other.exists()
    control = setting.ungoverned("rm", "-f", other)
    assert control.returncode == 0 and not other.exists(), control
    syshold.note("overlay that writes to a protected folder: read, written to and deleted from")
    setting.nobody_asked(person)


@syshold.limit(60)
def test_a_container_is_no_way_out_where_the_policy_does_not_open_it():
    (PLACES / "plain").mkdir(parents=True, exist_ok=True)
    (PLACES / "plain" / "secret").write_text(SECRET)
    person = syshold.start(POLICY)
    for words in (("bwrap", "--ro-bind", "/", "/", "--"), ("podman", "unshare"), ("unshare", "--user", "--map-root-user")):
        for user in (None, setting.USER):
            child = syshold.governed(*words, "cat", PLACES / "plain" / "secret", user=user)
            status, out, err, asked = cleared(person, child, syshold.deny)
            assert status != 0 and SECRET not in out, (words, user, out)
            # Root needs no user namespace for some of them: then the read itself is held.
            assert asked <= 1, (words, user, asked)
