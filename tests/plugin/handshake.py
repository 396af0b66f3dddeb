"""A plugin that says that it is there, with nothing but sockets, and lives on."""
import os
import socket
import struct

control = socket.socket(socket.AF_UNIX)
control.connect("/tmp/plugin_%s.ipc" % os.path.basename(os.getcwd()))
control.sendall(b"\0SP\0" + struct.pack(">HH", 48, 0))
message = struct.pack(">I", 0x80000001) + b"handshake"
control.sendall(b"\1" + struct.pack(">Q", len(message)) + message)
while control.recv(4096):
    pass
