"""The export profile: what every gateway sets on a backstore, a TPG and an ACL, and how far a kernel is from it.

Data and pure comparison only; who reads and writes the files lives in `gateway/lio/`. File names are relative to the
configfs directory of the object (Documentation/target/tcm_mod_builder.rst, drivers/target/target_core_configfs.c and
drivers/target/iscsi/iscsi_target_configfs.c of Linux 6.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.access import Access
from gateway.credentials import Credentials, Secret
from gateway.model import DeviceAttributes, Identity, ImageSpec
from gateway.observed import Acl, Device, Discovery, Target, Tpg

_MIB = 1 << 20


@dataclass(frozen=True)
class Setting:
    """One configfs file: what is written to it, and what the kernel shows afterwards if that differs."""

    file: str
    value: str
    shown: str = ""

    @property
    def expected(self) -> str:
        """The file's text after the write."""
        return self.shown or self.value


ALUA_ACCESS = "alua/default_tg_pt_gp/alua_access_type"
"""Implicit only: an initiator may not set the state, which stays active/optimized (0), the kernel's default."""


def device_settings(attributes: DeviceAttributes) -> tuple[Setting, ...]:
    """Every setting of a backstore, in the order in which the kernel takes them.

    The UNMAP limits come before `emulate_tpu`, which is refused without them. One UNMAP frees at most 32 MiB, eight
    objects of RBD's usual 4 MiB, so that it ends well within any time-out; the granularity is krbd's `alloc_size` of
    64 KiB, below which krbd drops a discard. That is why `unmap_zeroes_data` is 0: LIO would promise zeroes
    (LBPRZ) for the ends that krbd leaves as they were. One WRITE SAME covers at most one object.
    """
    block = attributes.block_size
    numbers = {
        "block_size": block,
        "max_unmap_lba_count": 32 * _MIB // block,
        "max_unmap_block_desc_count": 32,
        "unmap_granularity": (64 << 10) // block,
        "unmap_granularity_alignment": 0,
        "unmap_zeroes_data": 0,
        "max_write_same_len": 4 * _MIB // block,
        "emulate_tpu": attributes.emulate_tpu,
        "emulate_tpws": attributes.emulate_tpws,
        "emulate_3pc": attributes.emulate_3pc,
        "emulate_caw": attributes.emulate_caw,
        "emulate_fua_write": attributes.emulate_fua_write,
        "emulate_pr": attributes.emulate_pr,
        # The kernel writes every change of the table down before it answers; the guard's trap takes it from there.
        "force_pr_aptpl": attributes.emulate_pr,
        "enforce_pr_isids": attributes.enforce_pr_isids,
        "emulate_write_cache": attributes.emulate_write_cache,
        "is_nonrot": attributes.is_nonrot,
    }
    settings = tuple(Setting(f"attrib/{name}", str(number)) for name, number in numbers.items())
    return (*settings, Setting(ALUA_ACCESS, "1", "Implicit"))


DEVICE_FILES = tuple(setting.file for setting in device_settings(DeviceAttributes()))
"""The files of a backstore that are read back."""

TPG_SETTINGS = (
    # Explicit ACLs only, and discovery shows a target to nobody else.
    Setting("attrib/generate_node_acls", "0"),
    Setting("attrib/cache_dynamic_acls", "0"),
    Setting("attrib/demo_mode_discovery", "0"),
    Setting("attrib/prod_mode_write_protect", "0"),
    Setting("attrib/default_cmdsn_depth", "128"),
    # One connection, no recovery below the session: after a move nothing of the old session exists here. With both
    # times at 0 the wait before the next login is the initiator's own, for the larger of both sides' values counts
    # (RFC 7143 section 13.15; open-iscsi's default is 2 s).
    Setting("param/MaxConnections", "1"),
    Setting("param/ErrorRecoveryLevel", "0"),
    Setting("param/DefaultTime2Wait", "0"),
    Setting("param/DefaultTime2Retain", "0"),
    # Small writes travel with their command: one round trip less.
    Setting("param/InitialR2T", "No"),
    Setting("param/ImmediateData", "Yes"),
    Setting("param/MaxRecvDataSegmentLength", "262144"),
    Setting("param/FirstBurstLength", "262144"),
    Setting("param/MaxBurstLength", "1048576"),
)
"""Every setting of a TPG."""

ACL_SETTINGS = (
    # A silent initiator's session is gone after 15 s; its registrations stay.
    Setting("attrib/nopin_timeout", "5"),
    Setting("attrib/nopin_response_timeout", "10"),
    # At ERL 0 one late Data-Out ends the connection, and the kernel's 3 s is less than one TCP back-off.
    Setting("attrib/dataout_timeout", "20"),
)
"""Every setting of an ACL. They are written before its mapped LUN is linked: a mapped LUN proves that they were."""


AUTHENTICATION = "attrib/authentication"
"""A TPG's and an ACL's file: whether a login has to authenticate. The ACL's own goes before the TPG's, which is "1": an
ACL that was made this moment, and has nothing set yet, lets nobody in."""

AUTH_FILES = ("userid", "password", "userid_mutual", "password_mutual")
"""What is in the directories `auth/` of an ACL and `discovery_auth/` of the fabric (RFC 7143 section 12.1.3)."""


def differences(spec: ImageSpec, device: Device | None, target: Target | None) -> tuple[str, ...]:
    """Each way in which what was read is not what the spec demands, one sentence each; empty means complete.

    Which TPGs are enabled and which portals they have is not compared: that is what comes and goes with a path. Who
    may log in neither: `access_differences`.
    """
    return (*_of_device(spec, device), *_of_target(spec, device, target))


def access_differences(access: Access, target: Target | None) -> tuple[str, ...]:
    """Each way in which a target lets in others, or otherwise, than those who may; what is unknown is not compared."""
    if target is None:
        return ()
    return tuple(f"TPG {tpg.tag} of {target.iqn}: {what}" for tpg in target.tpgs for what in _of_access(access, tpg))


def acl_is(acl: Acl | None, credentials: Credentials | None) -> bool:
    """Whether an ACL lets its initiator in with exactly these credentials; None: without any."""
    if acl is None or not acl.mapped:
        return False
    if credentials is None:
        return acl.authentication == "0" or (acl.authentication is None and not acl.auth)
    return acl.authentication in ("1", None) and acl.auth == auth_of(credentials)


def discovery_is(discovery: Discovery, credentials: Credentials | None) -> bool:
    """Whether discovery asks for exactly these credentials; None: for nothing."""
    if credentials is None:
        return not discovery.enforced
    return discovery.enforced and discovery.auth == auth_of(credentials)


def auth_of(credentials: Credentials | None) -> dict[str, Secret]:
    """The files of an `auth/` directory that are set with these credentials, names as hidden as secrets."""
    if credentials is None:
        return {}
    found = {"userid": Secret(credentials.user), "password": credentials.secret}
    if credentials.mutual_secret is not None:
        found |= {"userid_mutual": Secret(credentials.mutual_user), "password_mutual": credentials.mutual_secret}
    return found


def tpg_authentication(tpg: Tpg, *, demanded: bool) -> str:
    """What a TPG's own attribute should be; on a kernel whose ACLs have none of their own it decides for all of them:
    an image with one initiator that has to authenticate lets none in without it."""
    inherited = any(acl.authentication is None for acl in tpg.initiators.values())
    return "0" if inherited and not demanded else "1"


def _of_device(spec: ImageSpec, device: Device | None) -> Iterator[str]:
    if device is None:
        yield f"there is no backstore for image {spec.name}"
        return
    if device.name.uid != spec.uid:
        yield f"backstore {device.name} is another image's, not that of uid {spec.uid}"
    if not device.enabled:
        yield f"backstore {device.name} is not enabled"
    where = f"backstore {device.name}"
    yield from _compare(where, shown_identity(spec.identity), device.identity)
    expected = {setting.file: setting.expected for setting in device_settings(spec.attributes)}
    yield from _compare(where, expected, device.attributes)


def shown_identity(identity: Identity) -> dict[str, str]:
    """What LIO shows for an identity, by the names `Device.identity` uses."""
    return {
        "serial": identity.serial,
        "vendor": identity.vendor,
        "product": identity.product,
        "revision": identity.revision,
    }


def _of_target(spec: ImageSpec, device: Device | None, target: Target | None) -> Iterator[str]:
    iqn = spec.identity.iqn
    if target is None:
        yield f"there is no target {iqn}"
        return
    if target.iqn != iqn:
        yield f"target {target.iqn} is not {iqn}"
    wanted = {path.tag for path in spec.paths}
    present = {tpg.tag for tpg in target.tpgs}
    for tag in sorted(wanted - present):
        yield f"target {iqn} has no TPG {tag}"
    for tag in sorted(present - wanted):
        yield f"target {iqn} has a TPG {tag} that no path of the image asks for"
    for tpg in target.tpgs:
        if tpg.tag in wanted:
            yield from _of_tpg(spec, device, tpg)


def _of_tpg(spec: ImageSpec, device: Device | None, tpg: Tpg) -> Iterator[str]:
    where = f"TPG {tpg.tag} of {spec.identity.iqn}"
    if tpg.device is None:
        yield f"{where} has no LUN 0 on a backstore of ours"
    elif device is not None and tpg.device != device.name:
        yield f"LUN 0 of {where} is backstore {tpg.device}, not {device.name}"
    if tpg.settings or not tpg.enabled or tpg.portals:  # else it is being closed, and they are not known
        yield from _compare(where, {setting.file: setting.expected for setting in TPG_SETTINGS}, tpg.settings)


def _of_access(access: Access, tpg: Tpg) -> Iterator[str]:
    present = tpg.initiators
    for iqn in sorted(present):
        if not access.expects(iqn):
            yield f"there is an ACL for {iqn}, which is not allowed"
    for iqn, credentials in sorted(access.initiators.items()):
        if iqn not in present:
            yield f"there is no ACL for {iqn}"
        elif not present[iqn].mapped:
            yield f"the ACL for {iqn} has no mapped LUN 0"
        elif not acl_is(present[iqn], credentials):
            yield (
                f"the ACL for {iqn} does not ask for its credentials"
                if credentials
                else (f"the ACL for {iqn} asks for credentials, and it has none")
            )
    wanted = tpg_authentication(tpg, demanded=access.demanded)
    if tpg.authentication not in (wanted, None):
        yield f"{AUTHENTICATION} is {tpg.authentication!r}, it should be {wanted!r}"


def _compare(where: str, expected: Mapping[str, str], shown: Mapping[str, str]) -> Iterator[str]:
    for name, value in expected.items():
        if name not in shown:
            yield f"{where}: {name} cannot be read, it should be {value!r}"
        elif shown[name] != value:
            yield f"{where}: {name} is {shown[name]!r}, it should be {value!r}"
