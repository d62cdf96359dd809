"""Training lists: of teacher scores, of grades, of people's dev queries; calibration."""
