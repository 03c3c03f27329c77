"""Models of other toolkits, read as data and made into `SpeakerModel`. Nothing in their files is executed."""
