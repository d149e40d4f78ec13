"""The ament_python package kittiwake_ros: `colcon build` takes this folder as it is."""

from glob import glob

from setuptools import setup

PACKAGE = "kittiwake_ros"
SHARED = ("launch", "config", "rviz", "foxglove")

setup(
    name=PACKAGE,
    version="0.1.0",
    description="ROS 2 nodes that run Kittiwake's model bundles",
    license="Apache-2.0",
    packages=[PACKAGE],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *((f"share/{PACKAGE}/{folder}", files) for folder in SHARED if (files := sorted(glob(f"{folder}/*")))),
    ],
    install_requires=["setuptools"],
    python_requires=">=3.10",
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "uav_localization = kittiwake_ros.uav_localization:main",
            "flight_simulator = kittiwake_ros.flight_simulator:main",
        ]
    },
)
