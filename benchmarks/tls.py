"""A throw-away authority and a certificate for localhost, for the TLS section."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attrs import frozen

__all__ = ["Certificates"]


@frozen(kw_only=True)
class Certificates:
    """Files in PEM form in *folder*."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        """The authority that clients trust."""
        return self.folder / "ca.pem"

    def make(self) -> None:
        """Make them; needs openssl."""
        self.folder.mkdir(parents=True)
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost\n")
        self._openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bench "
                      "-keyout ca.key -out ca.pem")  # fmt: skip
        self._openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost "
                      "-keyout server.key -out server.csr")  # fmt: skip
        self._openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
                      "-extfile extensions -out server.pem")  # fmt: skip

    def node_settings(self, port: int) -> dict[str, str]:
        """Return the settings of a RabbitMQ node that listens with TLS on *port*."""
        files = {
            "cacertfile": self.ca_file,
            "certfile": self.folder / "server.pem",
            "keyfile": self.folder / "server.key",
        }
        options = ", ".join(f'{{{name}, "{path}"}}' for name, path in files.items())
        return {
            "ssl_listeners": f'[{{"127.0.0.1", {port}}}]',
            "ssl_options": f"[{options}, {{verify, verify_none}}]",
        }

    def _openssl(self, arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments.split()], cwd=self.folder, check=True, capture_output=True
        )
