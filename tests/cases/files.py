"""Protected names and what belongs to a file: moved, linked, removed, made, cut, changed. Held, as root and as a user."""

import json
import pathlib
import shutil

import setting
import syshold

EPERM = 1
OUT = pathlib.Path("/srv/out")
BASE = syshold.PII / "names"

# What it does, on what, to where, and the word of the title.
WAYS = {
    "move out": ("rename", "moved.csv", "/srv/out/moved.csv", "delete"),
    "exchange": ("exchange", "exchanged.csv", "/srv/out/exchanged.csv", "delete"),
    "move a folder": ("rename", "folder", "/srv/out/folder", "delete"),
    "move within": ("rename", "within.csv", "/srv/pii/names/within-2.csv", "delete"),
    "link out": ("link", "linked.csv", "/srv/out/linked.csv", "write"),
    "unlink": ("unlink", "unlinked.csv", "", "delete"),
    "rmdir": ("rmdir", "empty", "", "delete"),
    "truncate": ("truncate", "truncated.csv", "", "write"),
    "open_truncate": ("open_truncate", "cut.csv", "", "write"),
    "rewrite": ("rewrite", "rewritten.csv", "", "write"),
    "chmod": ("chmod", "mode.csv", "", "write"),
    "chown": ("chown", "owner.csv", "", "write"),
    "setxattr": ("setxattr", "attribute.csv", "", "write"),
    "mkdir": ("mkdir", "made", "", "write"),
    "symlink": ("symlink", "symlinked", "", "write"),
    "mkfifo": ("mkfifo", "fifo", "", "write"),
    "create": ("create", "created.csv", "", "write"),
}
# What comes in from outside: the new name is what is protected.
INTO = {
    "move in": ("rename", "/srv/out/in.csv", "/srv/pii/names/in.csv", "write"),
    "link in": ("link", "/srv/out/link-in.csv", "/srv/pii/names/link-in.csv", "write"),
}


def lay_out(user):
    shutil.rmtree(BASE, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    (BASE / "folder").mkdir(parents=True)
    (BASE / "empty").mkdir()
    OUT.mkdir()
    (BASE / "folder" / "inside.csv").write_text("inside\n")
    for name in "moved exchanged within linked unlinked truncated cut rewritten mode owner attribute".split():
        (BASE / f"{name}.csv").write_text(f"{name}\n")
    for name in ("exchanged", "in", "link-in"):
        (OUT / f"{name}.csv").write_text("outside\n")
    if user:
        syshold.sh(f"chown -R {user}: {BASE} {OUT}")


def seen():
    """Everything there is, with what tells a change."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_nlink)
        for base in (BASE, OUT)
        for path in sorted(base.rglob("*"))
    }


def cases():
    inside = [[name, how, str(BASE / path), other] for name, (how, path, other, _) in WAYS.items()]
    return inside + [[name, how, path, other] for name, (how, path, other, _) in INTO.items()]


def every_way(user, how):
    person = setting.start()
    todo = cases()
    words = (setting.PYTHON, setting.GUEST / "names.py", json.dumps(todo))
    # Without Syshold all of it is done.
    lay_out(user)
    control = setting.ungoverned(*words, user=user)
    said = dict(json.loads(line) for line in control.stdout.splitlines())
    assert said == dict.fromkeys((*WAYS, *INTO), 0), (said, control.stderr)
    lay_out(user)
    before = seen()
    child = syshold.governed(*words, user=user)
    approvals = syshold.asked(person, len(todo), seconds=40)
    assert seen() == before, "done before anyone was asked"
    titles = [approval["title"] for approval in approvals]
    for _, path, _, word in WAYS.values():
        found = [title for title in titles if f"{BASE}/{path}" in title]
        assert len(found) == 1 and word in found[0], (path, titles)
    for _, _, path, word in INTO.values():
        found = [title for title in titles if path in title]
        assert len(found) == 1 and word in found[0], (path, titles)
    setting.answer_all(person, approvals, how)
    if how == "approve":
        # One of them reads: what the others would still write is another question from then on.
        syshold.answering(how)
    status, out, err = syshold.finish(child, 40)
    assert status == 0, (status, out, err)
    said = dict(json.loads(line) for line in out.splitlines())
    assert said == dict.fromkeys(said, 0 if how == "approve" else EPERM) and len(said) == len(todo), said
    if how == "deny":
        assert seen() == before
    setting.nobody_asked(person)


@syshold.limit(150)
def test_names_are_held_and_approved():
    every_way(None, "approve")


@syshold.limit(150)
def test_names_are_held_and_denied_to_a_user():
    every_way(setting.USER, "deny")


def test_a_folder_that_a_pattern_goes_through_does_not_move_unasked():
    """`/home/*/exports/*.csv`: elsewhere its files would be nobody's business."""
    person = setting.start()
    file = setting.EXPORTS / "moved.csv"
    file.write_text("moved\n")
    syshold.sh(f"chown -R {setting.USER}: {setting.EXPORTS}")
    child = syshold.governed("mv", setting.EXPORTS, f"/home/{setting.USER}/elsewhere", user=setting.USER)
    (approval,) = syshold.asked(person, seconds=20)
    assert "delete" in approval["title"] and str(setting.EXPORTS) in approval["title"], approval["title"]
    syshold.deny(person, approval)
    status, _, err = syshold.finish(child)
    assert status == 1 and "Operation not permitted" in err, (status, err)
    assert file.exists()


def test_other_names_are_nobodys_business():
    """Where nothing is protected nobody is asked, whatever is done."""
    person = setting.start()
    script = (
        "cd $(mktemp -d) && mkdir a && touch a/x && mv a b && ln b/x c && chmod 600 c && truncate -s 9 c && ln -s c d"
        " && rm c d && rm -r b && mkfifo f && rm f && echo done"
    )
    for user in (None, setting.USER):
        assert syshold.finish(syshold.governed("sh", "-c", script, user=user))[:2] == (0, "done\n")
    setting.nobody_asked(person)


def test_other_names_and_mounts_below_a_root_are_protected():
    """A hard link from before the daemon started, and a file system mounted below the root."""
    path = setting.pii("two-names.csv", "two names\n")
    OUT.mkdir(exist_ok=True)
    other = OUT / "other-name.csv"
    other.unlink(missing_ok=True)
    other.hardlink_to(path)
    syshold.at_end(other.unlink)
    mount = syshold.PII / "mounted"
    mount.mkdir(exist_ok=True)
    syshold.sh(f"mountpoint --quiet {mount} || mount -t tmpfs none {mount}")
    syshold.at_end(syshold.sh, f"umount {mount} && rmdir {mount}")
    (mount / "inside.csv").write_text("mounted\n")
    person = setting.start(fresh=True)
    for file, text in ((other, "two names\n"), (mount / "inside.csv", "mounted\n")):
        child = syshold.governed("cat", file)
        (approval,) = syshold.asked(person, seconds=20)
        assert str(file) in approval["title"], approval["title"]
        syshold.approve(person, approval)
        assert syshold.finish(child)[:2] == (0, text)
    setting.nobody_asked(person)


# Says what became of a rename, and puts it back.
MOVES = """
import os, sys
for one, other in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        os.rename(one, other)
        os.rename(other, one)
        print("moved")
    except OSError as error:
        print(error.errno)
"""


@syshold.limit(90)
def test_a_folder_on_the_way_to_a_protected_one_is_not_moved_away():
    """Another could be put in its place, and the policy's path would mean that one."""
    way = pathlib.Path("/srv/way")
    shutil.rmtree(way, ignore_errors=True)
    (way / "real" / "deep" / "pii").mkdir(parents=True)
    (way / "link").symlink_to(way / "real")
    first = setting.POLICY.index("[[rule]]")
    protect = '[[protect]]\nname = "deep"\npaths = ["/srv/way/link/deep/pii"]\nclass = "pii"\n\n'
    setting.start()
    person = syshold.start(setting.POLICY[:first] + protect + setting.POLICY[first:])
    moves = [name for folder in ("real/deep", "real", "link", "") for name in (way / folder, f"{way / folder}-away")]
    words = (setting.PYTHON, "-c", MOVES, *map(str, moves))
    assert setting.ungoverned(*words).stdout == "moved\n" * 4
    child = syshold.governed(*words)
    for _ in range(4):
        (approval,) = syshold.asked(person)
        assert "delete" in approval["title"], approval["title"]
        syshold.deny(person, approval)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, f"{EPERM}\n" * 4), (out, err)
    # Nobody is asked about what leads to the ledger and the policy.
    child = syshold.governed(setting.PYTHON, "-c", MOVES, "/var/lib", "/var/lib-away", "/etc", "/etc-away")
    assert syshold.finish(child)[1] == f"{EPERM}\n" * 2
    setting.nobody_asked(person)
