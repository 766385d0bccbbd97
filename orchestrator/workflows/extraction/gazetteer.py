"""Names that are known beforehand, by type, and the marks by which unknown names show their type."""

from __future__ import annotations

__all__ = [
    "ADDRESSES",
    "ALWAYS_NAMES",
    "FIRST_NAMES",
    "HEAD_BEFORE_OF",
    "HONORIFICS",
    "ORGANIZATIONS",
    "ORGANIZATION_HEADS",
    "PLACES",
    "PLACE_HEADS",
    "SYNONYMS",
    "TECHNOLOGIES",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.replace("\n", " ").split(","))


TECHNOLOGIES = _names(
    "postgresql, postgres, mysql, mariadb, sqlite, mongodb, redis, cassandra, elasticsearch, kafka, "
    "rabbitmq, nats, docker, docker compose, kubernetes, helm, terraform, ansible, prometheus, grafana, "
    "opentelemetry, jaeger, nginx, apache, envoy, linux, ubuntu, debian, fedora, windows, macos, android, "
    "ios, unix, posix, git, github, gitlab, github actions, python, javascript, typescript, java, kotlin, "
    "scala, haskell, erlang, elixir, ruby, perl, php, rust, golang, node.js, node, deno, bun, npm, pip, "
    "react, vue, angular, svelte, django, flask, fastapi, starlette, uvicorn, pydantic, sqlalchemy, "
    "alembic, celery, procrastinate, pytest, hypothesis, mypy, ruff, numpy, pandas, pytorch, tensorflow, "
    "langgraph, langchain, langsmith, langfuse, pgbouncer, "
    "supavisor, supabase, pgvector, psycopg, asyncpg, pg-boss, temporal, airflow, oban, river, graphql, "
    "grpc, rest, http, https, html, css, json, yaml, toml, xml, markdown, csv, sql, tcp, udp, dns, tls, "
    "ssl, ssh, oauth, jwt, websocket, webassembly, wasm, amazon s3, dynamodb, lambda, effect, express, "
    "next.js, vite, webpack, jest, vitest, playwright, selenium, chromium, chrome, firefox, safari, "
    "excel, spark, hadoop, emacs, vim, cython"
)
ORGANIZATIONS = _names(
    "google, microsoft, apple, amazon, meta, facebook, netflix, ibm, intel, nvidia, amd, oracle, cisco, "
    "sap, siemens, samsung, sony, toyota, tesla, boeing, airbus, spacex, nasa, esa, unesco, unicef, nato, "
    "opec, who, fbi, cia, bbc, cnn, mit, cern, ieee, ietf, w3c, mozilla, wikipedia, "
    "wikimedia, twitter, linkedin, uber, airbnb, spotify, stripe, cloudflare, vercel, heroku, hashicorp, "
    "red hat, canonical, aws, amazon web services, united nations, european union, european commission, "
    "world bank, world health organization, supreme court, parliament, congress, senate, white house, "
    "pentagon, kremlin, reuters, bloomberg, the new york times, harvard, stanford, oxford university, "
    "cambridge university, royal society, red cross, greenpeace"
)
PLACES = _names(
    "africa, antarctica, asia, europe, north america, south america, australia, oceania, afghanistan, "
    "albania, algeria, andorra, angola, argentina, armenia, austria, azerbaijan, bahrain, bangladesh, "
    "belarus, belgium, benin, bhutan, bolivia, bosnia, botswana, brazil, britain, great britain, "
    "bulgaria, burundi, cambodia, cameroon, canada, chile, china, colombia, congo, costa rica, croatia, "
    "cuba, cyprus, czech republic, denmark, ecuador, egypt, el salvador, england, eritrea, estonia, "
    "ethiopia, fiji, finland, france, gabon, gambia, germany, ghana, greece, greenland, guatemala, "
    "guinea, haiti, honduras, hungary, iceland, india, indonesia, iran, iraq, ireland, israel, italy, "
    "jamaica, japan, jordan, kazakhstan, kenya, kosovo, kuwait, laos, latvia, lebanon, liberia, libya, "
    "lithuania, luxembourg, madagascar, malawi, malaysia, mali, malta, mexico, moldova, monaco, mongolia, "
    "montenegro, morocco, mozambique, myanmar, namibia, nepal, netherlands, new zealand, nicaragua, "
    "niger, nigeria, north korea, norway, oman, pakistan, palestine, panama, paraguay, peru, philippines, "
    "poland, portugal, qatar, romania, russia, rwanda, saudi arabia, scotland, senegal, serbia, "
    "singapore, slovakia, slovenia, somalia, south africa, south korea, soviet union, spain, sri lanka, "
    "sudan, sweden, switzerland, syria, taiwan, tanzania, thailand, tibet, tunisia, uganda, ukraine, "
    "united arab emirates, united kingdom, united states, united states of america, uruguay, uzbekistan, "
    "venezuela, vietnam, wales, yemen, zambia, zimbabwe, usa, uk, u.s., u.k., amsterdam, ankara, antwerp, "
    "athens, atlanta, auckland, baghdad, bangalore, bangkok, barcelona, basel, beijing, beirut, belfast, "
    "belgrade, berlin, bern, birmingham, bogota, bombay, bordeaux, boston, bratislava, brisbane, bristol, "
    "brussels, bucharest, budapest, buenos aires, cairo, calcutta, california, cambridge, cape town, "
    "caracas, chicago, cologne, copenhagen, dallas, damascus, delhi, denver, detroit, dhaka, dresden, "
    "dubai, dublin, dusseldorf, edinburgh, florence, florida, frankfurt, geneva, glasgow, gothenburg, "
    "hamburg, hanoi, havana, helsinki, hong kong, houston, illinois, istanbul, jakarta, jerusalem, "
    "johannesburg, kabul, karachi, kathmandu, kiev, kyiv, kyoto, lagos, lahore, las vegas, leeds, "
    "leipzig, lima, lisbon, liverpool, london, los angeles, lyon, madrid, manchester, manila, marseille, "
    "massachusetts, melbourne, miami, michigan, milan, minsk, montreal, moscow, mumbai, munich, nairobi, "
    "naples, new delhi, new jersey, new orleans, new york, new york city, ohio, oregon, osaka, oslo, "
    "ottawa, oxford, palo alto, paris, pennsylvania, philadelphia, pittsburgh, portland, prague, rome, "
    "rotterdam, saint petersburg, san diego, san francisco, san jose, santiago, sao paulo, sarajevo, "
    "seattle, seoul, shanghai, silicon valley, sofia, stockholm, stuttgart, sydney, tallinn, tehran, tel "
    "aviv, texas, tokyo, toronto, turin, utrecht, vancouver, venice, vienna, virginia, warsaw, "
    "washington, wellington, yorkshire, zurich, atlantic, pacific, mediterranean, baltic, danube, rhine, "
    "thames, nile, amazon river, alps, himalayas, andes, mars, moon"
)
FIRST_NAMES = _names(
    "aaron, abraham, ada, adam, agnes, alan, albert, alex, alexander, alexandra, alfred, alice, amanda, "
    "amelia, amy, andrea, andreas, andrew, andy, angela, anita, ann, anna, anne, anthony, antonio, "
    "arthur, barbara, barry, ben, benjamin, bernard, bertrand, beth, betty, bill, blaise, bob, boris, "
    "brian, bruce, carl, carla, carlos, carol, caroline, catherine, charles, charlotte, chen, chris, "
    "christian, christina, christine, christopher, claire, clara, claudia, colin, craig, daniel, david, "
    "deborah, dennis, diana, diego, dmitri, donald, dorothy, douglas, edgar, edith, edward, edwin, elena, "
    "elizabeth, ella, ellen, emily, emma, eric, erik, ernest, ethan, eva, evelyn, fatima, felix, fiona, "
    "florence, frances, francis, francisco, frank, franz, fred, frederick, friedrich, gary, george, "
    "gerald, giovanni, gordon, graham, greg, gregory, guido, gustav, hannah, hans, harold, harry, "
    "heather, heinrich, helen, helena, henri, henry, herbert, hugh, ian, igor, ingrid, irene, isaac, "
    "isabel, isabella, ivan, jack, jacob, jacques, jake, james, jan, jane, janet, jason, jean, jeff, "
    "jennifer, jeremy, jessica, jim, joan, joe, johan, johann, johannes, john, jonas, jonathan, jorge, "
    "jose, josef, joseph, joshua, juan, judith, julia, julian, julie, jurgen, karen, karl, kate, "
    "katherine, kathleen, keith, ken, kenneth, kevin, klaus, lars, laura, lawrence, leo, leon, leonard, "
    "leonhard, lewis, li, linda, linus, lisa, louis, louise, lucas, lucy, ludwig, luigi, luis, lukas, "
    "luke, magnus, marc, marco, margaret, maria, marie, mario, marta, martha, martin, mary, matthew, max, "
    "maya, megan, michael, michel, michelle, miguel, mikhail, mohammed, monica, muhammad, nancy, natalie, "
    "nicholas, nick, nicolas, niels, nikola, nina, noah, nora, oliver, olivia, oscar, otto, pablo, "
    "pamela, patricia, patrick, paul, paula, pedro, peter, philip, pierre, rachel, ralph, raymond, "
    "rebecca, rene, richard, rita, robert, roger, ronald, rosa, rose, roy, rudolf, russell, ruth, ryan, "
    "sally, sam, samuel, sandra, sara, sarah, scott, sean, sebastian, sergei, sharon, simon, sofia, "
    "sophia, sophie, stefan, stephanie, stephen, steve, steven, stuart, susan, sven, sylvia, teresa, "
    "theodore, thomas, tim, timothy, tom, tony, ursula, vera, vincent, vladimir, walter, wei, werner, "
    "wilhelm, william, winston, wolfgang, xavier, yuki, yuri, yusuf, zoe"
)
ADDRESSES = _names("mr, mrs, ms, dr, prof, professor")
HONORIFICS = _names("mr, mrs, ms, dr, prof, professor, sir, lady, lord, president, senator, captain, judge, saint")
ORGANIZATION_HEADS = _names(
    "inc, corp, corporation, ltd, limited, llc, gmbh, ag, plc, company, co, university, college, "
    "institute, school, foundation, association, society, committee, commission, council, agency, "
    "authority, bureau, department, ministry, office, bank, group, labs, laboratory, laboratories, "
    "museum, hospital, church, party, union, federation, league, club, team, academy, consortium, "
    "alliance, press, times, airlines, motors, industries, technologies, systems, holdings, partners, "
    "ventures, studios, records, army, navy, police, parliament, court"
)
PLACE_HEADS = _names(
    "river, lake, mountain, mountains, mount, ocean, sea, bay, gulf, island, islands, isle, peninsula, "
    "valley, desert, forest, street, avenue, road, square, park, bridge, airport, station, harbour, "
    "harbor, county, city, town, village, province, district, coast, republic, kingdom"
)
HEAD_BEFORE_OF = _names(
    "bank, university, college, institute, school, department, ministry, house, board, court, office, "
    "academy, museum, society, church, republic, kingdom, isle, city, state, province, duchy, gulf, bay, "
    "strait, cape, tower, battle, treaty, siege, king, queen, prince, princess, duke, earl, archbishop, "
    "bishop, council, commission, bureau, university, statue, declaration, bill, house, league, order, "
    "temple, wall, war, federation"
)
SYNONYMS = {
    "postgres": "postgresql",
    "k8s": "kubernetes",
    "us": "united states",
    "usa": "united states",
    "u.s.": "united states",
    "u.s": "united states",
    "united states of america": "united states",
    "uk": "united kingdom",
    "u.k.": "united kingdom",
    "u.k": "united kingdom",
    "node": "node.js",
    "nodejs": "node.js",
    "golang": "go",
    "amazon web services": "aws",
}

# Words that are as often no name at all: they need the same evidence as any other word.
_AMBIGUOUS = _names(
    "windows, rest, effect, express, river, node, lambda, spark, react, safari, excel, apple, amazon, "
    "meta, oracle, who, mars, moon, turkey, rose, jean, grace, mark, art, max, sam, frank, congress, "
    "parliament, senate, celery, temporal, hypothesis, procrastinate, oban, chrome, jordan, chad, helm, "
    "envoy, vue, uber, stripe, canonical, ruff"
)
ALWAYS_NAMES = (TECHNOLOGIES | ORGANIZATIONS | PLACES | FIRST_NAMES) - _AMBIGUOUS
