"""Does through a front end what users of kylinpy do: log in, list projects and tables, query, be refused.

    client.py HOST PORT VERSION...      VERSION: v1, v2 or v4, kylinpy's dialects

Prints `ok` at the end; anything unexpected is an exception.
"""

import sys

from kylinpy import Kylin, create_kylin
from kylinpy.client import UnauthorizedError
from kylinpy.exceptions import KylinQueryError


def use(host, port, version):
    kylin = Kylin(host, username="ADMIN", password="KYLIN", port=port, project="learn_kylin", version=version)
    kylin.service.get_authentication()
    projects = [project["name"] if isinstance(project, dict) else project for project in kylin.projects()]
    assert "learn_kylin" in projects, projects
    assert kylin.get_all_tables(), "no tables"
    # The first cell of a demo node's answer is its name.
    nodes = {kylin.query(f"select {number} as n from kylin_sales")["results"][0][0] for number in range(6)}
    assert nodes, "no answers"
    try:
        kylin.query("SYNTAX ERROR")
    except KylinQueryError:
        pass
    else:
        raise AssertionError("an error in SQL is none")
    stranger = Kylin(host, username="ADMIN", password="wrong", port=port, project="learn_kylin", version=version)
    try:
        stranger.projects()
    except UnauthorizedError:
        pass
    else:
        raise AssertionError("a wrong password is let in")


def main():
    host, port, *versions = sys.argv[1:]
    for version in versions:
        use(host, int(port), version)
    # What Superset opens: SQLAlchemy's dialect.
    create_kylin(f"kylin://ADMIN:KYLIN@{host}:{port}/learn_kylin?version={versions[0]}").query("select 1")
    print("ok")


main()
