"""The servers that are measured side by side, one file each, all behind `base.Peer`."""
