"""`scripts/chaos`: the whole system under a steady load and a seeded schedule of faults, and what is to hold after it.

schedule   which fault strikes when: a pure function of the seed
system     the API, the workers and PostgreSQL behind a proxy, as processes
graphs     what the load runs, and what the result has to be
load       a client that starts runs, answers them, and watches some
faults     does what the schedule says
checker    goes over every row and every line of the journal at the end
report     the table
"""
