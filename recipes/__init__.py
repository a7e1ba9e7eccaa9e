"""The programs: each is one screen over the library's public face, to copy and to change."""
