"""ROS 2 nodes of Kittiwake: they carry messages; what they compute is in `kittiwake_runtime`."""
