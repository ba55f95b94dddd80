"""What is committed under reports/published agrees with itself."""

from __future__ import annotations

import json

from tests.reports.publish import PUBLISHED, claims_page


def test_the_page_of_claims_says_what_the_published_verdicts_say() -> None:
    page = (PUBLISHED / "claims.md").read_text(encoding="utf-8")
    assert page == claims_page(PUBLISHED)
    campaigns = [path.parent.name for path in PUBLISHED.glob("*-full/verdict.json")]
    assert campaigns
    for name in campaigns:
        claims = json.loads((PUBLISHED / name / "verdict.json").read_text(encoding="utf-8"))["claims"]
        assert f"[{name}]({name}/report.md)" in page
        assert all(claim["sentence"] in page for claim in claims)


def test_the_page_counts_a_claim_that_any_campaign_answers() -> None:
    answered = {
        claim["claim"]
        for path in PUBLISHED.glob("*-full/verdict.json")
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]
        if claim["verdict"] in ("holds", "does-not-hold") and claim["claim"].startswith("C")
    }
    assert f" {len(answered)} of the 14 claims are answered" in claims_page(PUBLISHED)
