"""The documentation as what it is: pages with code that runs, and with parts that are made from the code."""
