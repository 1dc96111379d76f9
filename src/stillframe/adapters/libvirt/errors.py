"""What libvirt said no to, as one of our errors."""

from __future__ import annotations

import libvirt

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError, Unknown

_REFUSALS = frozenset(
    {
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_ERR_XML_ERROR,
        libvirt.VIR_ERR_XML_DETAIL,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_OPERATION_DENIED,
        libvirt.VIR_ERR_ACCESS_DENIED,
        libvirt.VIR_ERR_RESOURCE_BUSY,
    }
)
_UNREACHABLE = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_AUTH_FAILED,
    }
)


def typed_error(what: str, error: libvirt.libvirtError, *, alive: bool) -> StillframeError:
    """Libvirt's error as one of ours; its own words stay in ``desc``."""
    code = error.get_error_code()
    words = f"{what}: {error.get_error_message()}"
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return Refused(ErrorCase.VM_UNKNOWN, words)
    if code in _UNREACHABLE or not alive:
        return Unknown(ErrorCase.HOST_UNREACHABLE, words)
    if code in (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE):
        return Unknown(ErrorCase.HYPERVISOR_FAILED, words)
    if "No space left" in words:
        return Failed(ErrorCase.SPACE_EXHAUSTED, words)
    if code in _REFUSALS:
        return Refused(ErrorCase.HYPERVISOR_FAILED, words)
    return Failed(ErrorCase.HYPERVISOR_FAILED, words)
