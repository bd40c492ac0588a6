"""For people: tables and sentences made of rows."""
