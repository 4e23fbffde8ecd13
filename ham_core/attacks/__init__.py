"""The maths of each attack as a pure function. There is one projected-gradient loop in the project: `pgd.pgd`."""
