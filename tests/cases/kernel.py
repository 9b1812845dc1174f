"""The kernel is the one tests/kernels.toml describes."""

import pathlib

import syshold


def test_release():
    assert syshold.uname().startswith(syshold.kernel()["name"] + "."), syshold.uname()


def test_bpf_is_an_active_lsm():
    assert "bpf" in pathlib.Path("/sys/kernel/security/lsm").read_text().split(",")


def test_hooks_are_as_expected():
    btf = pathlib.Path("/sys/kernel/btf/vmlinux").read_bytes()

    def there(hook):
        return b"\0bpf_lsm_" + hook.encode() + b"\0" in btf

    absent = [hook for hook in syshold.kernel()["hooks"] if not there(hook)]
    unexpected = [hook for hook in syshold.kernel()["lacks"] if there(hook)]
    assert not absent, f"absent hooks: {absent}"
    assert not unexpected, f"hooks this kernel should not have: {unexpected}"


def test_systemd_has_no_failed_unit():
    failed = syshold.sh("systemctl --failed --no-legend --plain").stdout
    assert not failed, failed
