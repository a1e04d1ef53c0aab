"""Makes the stubs out of the service's .proto file while the package is built."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
FILE = Path("proto/lava/v1/inference.proto")
# In the repository the file is two folders up; a source distribution carries a copy.
PROTO = next(folder / FILE for folder in (HERE, HERE.parents[1]) if (folder / FILE).is_file())


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        # Installed only where packages are built, so not at the top.
        from grpc_tools import protoc

        out = HERE if self.editable_mode else Path(self.build_lib)
        arguments = [
            "protoc",
            # The stubs import each other by this path, so it has to be that of the package.
            f"-Ilava_client={PROTO.parent}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            f"lava_client/{FILE.name}",
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc cannot make stubs of {PROTO}")


class SdistWithProto(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        copy = Path(base_dir, FILE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROTO, copy)


setup(cmdclass={"build_py": BuildWithStubs, "sdist": SdistWithProto})
