"""The operators' pages at /console: beside the API, in the same process, and using the same use cases.

Pages are rendered by the server and readable without scripts; htmx is the only library, and is only used to refresh
pages. Nothing is inline: the browser is told to apply only the console's own script and style files (`security.py`).

How a page is made
------------------
A view is in `views/`, one file and one blueprint per section. It calls the use cases that the API calls, by
`services()`; it has no SQL and doesn't call the API. It names the scope that it requires, which is that of the API's
route for the same. Sections are listed in `navigation.py`, their blueprints in `factory.py`, and the templates of a
section are in `templates/<section>/`.

A list, with filters in its address and pages:

    blueprint = Blueprint("wallets", __name__, url_prefix="/wallets")

    FILTERS = Filters(
        Field("package_id", "Package", plain, Kind.CHOICE, is_required=False, choices=package_choices),
        Field("user_id", "User", identifier(), is_required=False),
    )

    @blueprint.get("")
    @needs(KeyScope.READ)
    def index() -> Response:
        filtered = FILTERS.read()
        wanted = Wallets(**filtered.values)     # values that are given; parsers of forms.py have checked them
        found = paged(BY_ID, lambda limit, after: services().wallet_admin.list(limit, after, wanted)) \\
            if filtered.is_valid else None
        return page("wallets/index.html", filtered.status, filtered=filtered, paged=found)

    {% extends "base.html" %}
    {% block title %}Wallets{% endblock %}
    {% block content %}
    <h1>Wallets</h1>
    {{ ui.filters(filtered, url_for("wallets.index")) }}
    {% if paged %}
    {% call(wallet) ui.table("Wallets", ["User", "State", ">Spendable", "Opened"], paged.items,
                             empty="No wallet matches. Clear the filters to see all.") %}
    <th scope="row"><a href="{{ url_for('wallets.show', user_id=wallet.user_id) }}">{{ wallet.user_id }}</a></th>
    <td>{{ ui.badge(wallet.status, "good") }}</td>
    <td class="number">{{ money(wallet.spendable_micros) }}</td>
    <td>{{ ui.moment(wallet.created_at) }}</td>
    {% endcall %}
    {{ ui.pager(paged) }}
    {% endif %}
    {% endblock %}

A page that changes something is one call of `change`: it answers GET with the form, and POST with what is wrong, with
the confirmation, or with the change and a message on the page where it sends the browser (`changes.py`):

    TOP_UP = Form((Field("token", "Amount", amount(), Kind.NUMBER, unit="tokens"), REFERENCE, REASON))

    @blueprint.route("/top-up/<id:user_id>", methods=["GET", "POST"])
    @needs(KeyScope.WALLETS)
    def top_up(user_id: str) -> Response:
        def perform(values: Mapping[str, Any]) -> Done:
            posting = Posting(user_id, PostingKind.TOP_UP, values["token"], ..., caller=acting(values))
            posted = services().postings.post(posting)
            return Done(url_for("wallets.show", user_id=user_id), "...")

        return change(
            TOP_UP,
            title=f"Top up {user_id}",
            action="Top up",                    # the last button
            back=url_for("wallets.show", user_id=user_id),
            review=lambda values: Review("1,000 tokens are posted to ...", [("Balance after", ...)]),
            perform=perform,
            is_dangerous=False,                 # True for what takes something away
        )

`acting(values)` is who does it: the key, the person who signed in, the address, the request and the reason. If the use
case raises a DomainError, its reasons are shown beside the fields; a field whose name isn't the wire's lists the wire's
name in `wire_names`. Elsewhere a DomainError becomes an error page (`errors.py`), so a view lets it pass.

In a template, without an import: `money(micros)`, `ui.moment(at)`, `ui.age(at)`, `ui.badge(word, tone)`,
`ui.table(...)`, `ui.facts(pairs)`, `ui.figure(...)`, `ui.tabs(...)`, `ui.filters(...)`, `ui.pager(paged)`,
`ui.bars(title, bars(rows, write))`, `ui.line_chart(chart, id)` (of `charts.line_chart`), `ui.progress(...)`,
`ui.csrf(csrf_token())` in a form of your own, `text.words("dead_letter")`, `text.count(n)`, `may("wallets")` to show an
action, `now()`. A link to a download goes to a view that answers with `downloads.download`.

A part of a page that updates itself requests the whole page and takes its own part, by its id. Such requests don't keep
the session alive:

    <section id="live" class="live" hx-get="{{ request.full_path }}" hx-trigger="every 15s" hx-select="#live"
             hx-swap="outerHTML">

Ids may have slashes, so an id comes last in an address: `/wallets/top-up/<id:user_id>`, not `/wallets/<id>/top-up`.
Names of users and models may contain HTML. Templates escape everything, so don't use `Markup` or `|safe`. Write
amounts, moments and states only with the macros. An empty list says what to do. Colour is never the only sign of
anything.

Tests are in `tests/console`, with a browser of their own (`tests/console/browser.py`): a page with and without the
scope, its forms refused and done, hostile names. `benchmarks/console.py` measures each page.
"""
