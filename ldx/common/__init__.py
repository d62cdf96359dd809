"""What all folders use: errors, files, interrupts, progress bars, flags, sections of configs."""
