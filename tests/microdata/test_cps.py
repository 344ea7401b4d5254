"""The bundled microdata: the public-use CPS that taxcalc ships."""

import io
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import InputError
from distcalib.microdata.bundled_data import bundled_path
from distcalib.microdata.cps import build_cps, imputations_without, write_bundled
from distcalib.microdata.cps_imputed import IMPUTATIONS, IMPUTED_INPUTS
from distcalib.microdata.cps_inputs import INPUTS
from distcalib.microdata.cps_rake import official
from distcalib.microdata.cps_sample import BOUNDS, calibrate, draw
from distcalib.microdata.cps_source import MONEY, growth_to, read_units, taxcalc_folder
from distcalib.microdata.model import Microdata

pytest.importorskip("taxcalc", reason="the public-use CPS comes with taxcalc (extra 'data')")
BUNDLED = files("distcalib.microdata").joinpath("bundled")
SIDES = ("sources.csv", "raking.csv", "households.csv.gz", "units.csv.gz")


@pytest.fixture(scope="module")
def source():
    return pd.read_csv(taxcalc_folder() / "cps.csv.gz")


@pytest.fixture(scope="module")
def full():
    return build_cps(households=None)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    return write_bundled(folder), folder


@pytest.fixture(scope="module")
def bundled():
    return Microdata.read(bundled_path())


def dependants_by_unit(data, low, high):
    """Count dependants of an age band in each tax unit, leaving out children who had a unit of their own."""
    age = data.column("age")
    chosen = (data.column("tax_unit_role_input") == b"DEPENDENT") & (age >= low) & (age <= high)
    return np.bincount(data.links["tax_unit"][chosen], minlength=data.count("tax_unit"))


# The file in the package


def test_rebuilding_gives_the_bundled_bytes(rebuilt):
    _, folder = rebuilt
    names = [f"cps_2024{end}" for end in (".h5", *(f"_{side}" for side in SIDES))]
    for name in names:
        assert (folder / name).read_bytes() == BUNDLED.joinpath(name).read_bytes(), name


def test_bundled_file_is_small_and_holds_12000_households(bundled):
    assert bundled_path().stat().st_size <= 3_000_000
    assert bundled.count() == 12_000
    assert bundled.period == 2024
    assert all(bundled.count(entity) > 0 for entity in ENTITIES)


def test_only_inputs_of_policyengine_are_written(bundled):
    for variable, entity in bundled.variables().items():
        known = catalogue().get(variable)
        assert known.is_input, f"{variable} has a formula"
        assert known.entity == entity
    written = {i.variable for i in (*INPUTS, *IMPUTED_INPUTS)}
    assert set(bundled.variables()) == written
    assert not [v for v in written if v.startswith("takes_up_")], "take-up is drawn elsewhere"


def test_no_value_is_missing_or_infinite(bundled):
    for variable in bundled.variables():
        values = bundled.column(variable)
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), variable


def test_every_unit_has_one_head_and_at_most_one_spouse(bundled):
    role, unit = bundled.column("tax_unit_role_input"), bundled.links["tax_unit"]
    assert set(np.unique(role)) == {b"HEAD", b"SPOUSE", b"DEPENDENT"}
    heads = np.bincount(unit[role == b"HEAD"], minlength=bundled.count("tax_unit"))
    spouses = np.bincount(unit[role == b"SPOUSE"], minlength=bundled.count("tax_unit"))
    assert (heads == 1).all()
    assert spouses.max() == 1
    couple = np.flatnonzero(np.isin(role, [b"HEAD", b"SPOUSE"]))
    together = pd.Series(bundled.links["marital_unit"][couple]).groupby(unit[couple]).nunique()
    assert (together == 1).all()
    assert np.bincount(bundled.links["marital_unit"]).max() == 2


def test_every_household_has_one_household_head(bundled):
    heads = bundled.links["household"][bundled.column("is_household_head")]
    assert np.array_equal(np.sort(heads), np.arange(12_000))


def test_units_lie_within_families_spm_units_and_households(bundled):
    def nests(inner, outer):
        pairs = np.unique(np.stack([bundled.links[inner], bundled.links[outer]]), axis=1)
        return pairs.shape[1] == bundled.count(inner)

    assert nests("tax_unit", "family")
    assert nests("marital_unit", "tax_unit")
    assert nests("family", "spm_unit")
    assert nests("spm_unit", "household")
    for entity in GROUP_ENTITIES:
        assert np.array_equal(np.unique(bundled.links[entity]), np.arange(bundled.count(entity)))


def test_a_household_of_one_or_two_families_is_one_spm_unit(bundled):
    homes = bundled.household_of
    families = np.bincount(homes["family"], minlength=12_000)
    spm_units = np.bincount(homes["spm_unit"], minlength=12_000)
    few = families <= 2
    assert (spm_units[few] == 1).all()
    assert (families >= 3).any()
    # In the others a family without an adult belongs to one that has one, so there are fewer units.
    age, family = bundled.column("age"), bundled.links["family"]
    grown = np.unique(family[age >= 18])
    adult_families = np.bincount(homes["family"][grown], minlength=12_000)
    assert np.array_equal(spm_units[~few], adult_families[~few])
    assert (spm_units < families)[~few].any()


def test_every_spm_unit_has_an_adult_or_is_headed_by_the_household_head(full):
    data = full.microdata
    responsible = (data.column("age") >= 18) | data.column("is_household_head")
    assert len(np.unique(data.links["spm_unit"][responsible])) == data.count("spm_unit")


def test_ids_are_exact_as_float32(bundled):
    for entity in ENTITIES:
        assert bundled.ids[entity].max() < 2**24


# The source and the full file


def test_household_key_is_income_year_and_h_seq(full, source):
    assert full.microdata.count() == 200_576 == source.groupby(["FLPDYR", "h_seq"]).ngroups
    key = source["FLPDYR"].sub(2000) * 100_000 + source["h_seq"]
    assert np.array_equal(np.unique(full.microdata.ids["household"]), np.unique(key))
    # h_seq and state alone would merge households of different years.
    assert source.groupby(["h_seq", "fips"]).ngroups < 200_576


def test_growth_is_compounded_from_each_income_year():
    factors = pd.DataFrame({"AWAGE": [1.0, 2.0, 3.0, 5.0]}, index=[2012, 2013, 2014, 2015])
    growth = growth_to(2015, factors)["AWAGE"]
    assert growth.to_dict() == {2012: 30.0, 2013: 15.0, 2014: 5.0, 2015: 1.0}


def test_growth_factors_are_paired_as_taxcalc_pairs_them(source):
    """Age a year of records with taxcalc itself, and compare with ours."""
    from taxcalc import GrowFactors, Records

    records = source[source["FLPDYR"] == 2014].drop(columns=["agi_bin"])
    aged = Records(data=records, start_year=2014, gfactors=GrowFactors(), weights="cps_weights.csv.gz")
    for _ in range(10):
        aged.increment_year()
    units = read_units(2024).table
    ours = units[units["FLPDYR"] == 2014]
    kept = records["RECID"].isin(ours["RECID"]).to_numpy()
    for column in MONEY:
        np.testing.assert_allclose(ours[column], getattr(aged, column)[kept], rtol=1e-9, err_msg=column)


def test_persons_are_those_that_the_source_counts(full, source):
    data = full.microdata
    children = int((source["age_head"] < 15).sum())
    assert data.count("person") == int((source["nu18"] + source["n1820"] + source["n21"]).sum())
    assert data.count("tax_unit") == len(source) - children
    assert np.array_equal(data.ids["tax_unit"], source.loc[source["age_head"] >= 15, "RECID"])


def test_dependants_ages_lie_within_the_bands_of_the_source(full, source):
    data = full.microdata
    young = source["age_head"] < 15
    homes = source.loc[young, ["FLPDYR", "h_seq"]].drop_duplicates()
    keys = (homes["FLPDYR"] - 2000) * 100_000 + homes["h_seq"]
    # Units of households where a child joined one of them are left out: their counts differ by that child.
    hosts = np.isin(data.ids["household"][data.household_of["tax_unit"]], keys)
    units = source[~young]
    expected = {
        (0, 5): units["nu06"],
        (0, 12): units["nu13"],
        (0, 16): units["n24"],
        (65, 85): units["elderly_dependents"],
    }
    for (low, high), count in expected.items():
        found = dependants_by_unit(data, low, high)
        assert np.array_equal(found[~hosts], count.to_numpy()[~hosts]), (low, high)
    age, unit = data.column("age"), data.links["tax_unit"]
    for low, high, count in ((0, 17, "nu18"), (18, 20, "n1820"), (21, 99, "n21")):
        found = np.bincount(unit[(age >= low) & (age <= high)], minlength=len(units))
        assert np.array_equal(found[~hosts], units[count].to_numpy()[~hosts]), count
    # Draws, not a constant: every single year of a band occurs, in about equal numbers.
    years = np.bincount(age[data.column("tax_unit_role_input") == b"DEPENDENT"].astype(int))
    assert years[:6].min() > 0.85 * years[:6].max()


def test_impossible_records_are_counted(full):
    assert list(full.rules.values()) == [885, 57, 103, 1095]
    head_age = full.microdata.column("age")[full.microdata.column("tax_unit_role_input") == b"HEAD"]
    assert head_age.min() == 15


def margins_of(data):
    """Count persons, minors, the aged and households by state, and persons by band of the nation."""
    home, age = data.links["household"], data.column("age")
    weight, state = data.weights[home], data.column("state_fips")
    found = {
        "persons": pd.Series(weight).groupby(state[home]).sum(),
        "persons under 18": pd.Series(weight * (age < 18)).groupby(state[home]).sum(),
        "persons of 65 and over": pd.Series(weight * (age >= 65)).groupby(state[home]).sum(),
        "households": pd.Series(data.weights).groupby(state).sum(),
    }
    found["persons by age"] = pd.Series(weight).groupby(np.minimum(age // 5 * 5, 85)).sum()
    return found


def test_weights_are_raked_to_the_official_population(full, bundled):
    assert official("persons").sum() == 340_110_990
    assert official("persons by age").sum() == official("persons").sum()
    for data, within in ((full.microdata, 1e-6), (bundled, 0.01)):
        for quantity, found in margins_of(data).items():
            wanted = official(quantity)
            assert len(found) == len(wanted), quantity
            assert np.abs(found / wanted - 1).max() < within, quantity


def test_without_raking_the_table_says_that_nothing_moved():
    table = build_cps(4_000, raked=False).raking
    rows = table[~table["margin"].str.endswith("adjustment")]
    np.testing.assert_array_equal(rows["after"], rows["before"])
    assert set(table["margin"]) - set(rows["margin"]) == {"sample adjustment"}
    assert np.abs(rows["after"] / rows["official"] - 1).max() > 0.1


def test_raking_table_says_what_was_there_before_and_how_far_weights_moved(full):
    table = full.raking
    rows = table[~table["margin"].str.endswith("adjustment")]
    np.testing.assert_allclose(rows["after"], rows["official"], rtol=1e-6)
    unraked = build_cps(None, raked=False, imputations=()).microdata
    before = rows[rows["margin"] == "persons by age"].set_index(
        rows["age_from"][rows.margin == "persons by age"]
    )
    found = margins_of(unraked)["persons by age"]
    np.testing.assert_allclose(found.to_numpy(), before["before"].to_numpy(), rtol=1e-6)
    assert np.abs(found / official("persons by age") - 1).max() > 0.2, "raking has something to do"
    factor = full.microdata.weights / unraked.weights
    spread = table[table["margin"] == "adjustment"].set_index("area")["after"]
    assert spread["min"] == pytest.approx(factor.min())
    assert spread["max"] == pytest.approx(factor.max())
    assert spread["min"] >= BOUNDS[0] - 1e-9
    assert spread["max"] <= BOUNDS[1] + 1e-9


# Imputations


def test_rents_of_a_state_sum_to_the_official_ones_and_owners_pay_none(full, bundled):
    for data, within in ((full.microdata, 0.001), (bundled, 0.01)):
        home = data.links["household"]
        rent = np.bincount(home, weights=data.column("pre_subsidy_rent"), minlength=data.count())
        found = pd.Series(rent * data.weights).groupby(data.column("state_fips")).sum()
        assert np.abs(found / official("contract rent") - 1).max() < within
        taxed = np.bincount(home, weights=data.column("real_estate_taxes"), minlength=data.count()) > 0
        assert not rent[taxed].any()
        assert (rent[~taxed] > 0).all()
        assert np.array_equal(data.column("tenure_type") == b"RENTED", ~taxed)


def test_employer_coverage_reaches_the_published_share_and_only_families_of_workers(full):
    data = full.microdata
    age, covered = data.column("age"), data.column("has_esi")
    weight = data.weights[data.links["household"]]
    young = age < 65
    assert weight[covered & young].sum() / weight[young].sum() == pytest.approx(0.604, abs=0.005)
    worker = (data.column("employment_income_before_lsr") > 0) & young
    with_worker = np.unique(data.links["tax_unit"][worker])
    assert np.isin(data.links["tax_unit"][covered], with_worker).all()
    # Coverage rises with wages.
    wages = data.column("employment_income_before_lsr")
    assert covered[worker & (wages > 60_000)].mean() > covered[worker & (wages < 20_000)].mean() + 0.3


def test_mortgage_interest_is_kept_for_a_part_of_owners(full):
    plain = build_cps(None, imputations=imputations_without(["mortgage_interest"])).microdata
    before, after = plain.column("home_mortgage_interest"), full.microdata.column("home_mortgage_interest")
    assert not after[before == 0].any()
    assert (after[before > 10] > 0).mean() == pytest.approx(0.6, abs=0.01)
    kept = after > 0
    np.testing.assert_allclose(after[kept], before[kept] * 0.6, atol=0.51)


def test_every_imputation_can_be_switched_off_and_is_marked(full):
    own = {
        "rent": ["pre_subsidy_rent", "tenure_type", "spm_unit_tenure_type", "heating_cooling_expense"],
        "employer_coverage": ["has_esi"],
        "mortgage_interest": ["mortgage_payments"],
        "ssi_disability": ["meets_ssi_disability_criteria"],
    }
    assert set(own) == set(IMPUTATIONS)
    table = full.sources.set_index("policyengine_input")
    for name, variables in own.items():
        without = build_cps(None, imputations=imputations_without([name]))
        assert not set(variables) & set(without.microdata.variables()), name
        assert not set(variables) & set(without.sources["policyengine_input"]), name
        assert (table.loc[variables, "imputed"] == "yes").all(), name
    assert "kept for 60%" in table.loc["home_mortgage_interest", "rule"]
    assert "raked" in table.loc["household_weight", "rule"]
    plain = build_cps(4_000, imputations=(), raked=False).sources.set_index("policyengine_input")["rule"]
    assert "kept for" not in plain["home_mortgage_interest"]
    assert "raked" not in plain["household_weight"]
    assert imputations_without(["all"]) == ()
    with pytest.raises(InputError, match=r"no such imputation.*rnt[\s\S]*rent"):
        imputations_without(["rnt"])


def test_money_is_written_once(full, source):
    """Split columns, never their sums; a column that contains another is written as the difference."""
    data = full.microdata
    units = read_units(2024).table

    def total(*names):
        return sum(float(data.column(n).sum(dtype=np.float64)) for n in names)

    def aged(expression):
        return float(units.eval(expression).sum())

    for names, expression in (
        (["employment_income_before_lsr"], "e00200p + e00200s"),
        (["self_employment_income_before_lsr"], "e00900p + e00900s"),
        (["farm_operations_income"], "e02100p + e02100s"),
        (["qualified_dividend_income", "non_qualified_dividend_income"], "e00600"),
        (["taxable_private_pension_income", "tax_exempt_private_pension_income"], "e01500"),
        (
            ["social_security_retirement", "social_security_disability", "social_security_survivors"],
            "e02400",
        ),
        (["spm_unit_snap"], "snap_ben"),
    ):
        assert total(*names) == pytest.approx(aged(expression), rel=1e-4), names
    for name in ("non_qualified_dividend_income", "tax_exempt_private_pension_income"):
        assert data.column(name).min() >= 0


def test_social_security_goes_by_age(full):
    data = full.microdata
    age = data.column("age")
    assert age[data.column("social_security_retirement") > 0].min() == 62
    disabled = data.column("social_security_disability") > 0
    assert age[disabled].min() >= 18
    assert age[disabled].max() <= 61
    assert data.column("is_disabled")[disabled].all()
    survivors = age[data.column("social_security_survivors") > 0]
    assert set(np.unique(survivors)) <= {15, 16, 17, 60, 61}


def test_dependants_have_no_earnings(bundled):
    dependant = bundled.column("tax_unit_role_input") == b"DEPENDENT"
    for name in ("employment_income_before_lsr", "social_security_retirement", "taxable_interest_income"):
        assert not bundled.column(name)[dependant].any()


# The draw


def test_totals_are_within_one_percent_of_the_full_file(rebuilt, full, bundled):
    build, _ = rebuilt
    assert build.agreement["difference"].abs().max() < 0.01
    # The same from the files alone, without the build's own bookkeeping.
    for broad in ((0, 18, 35, 50, 65), tuple(range(0, 90, 5))):
        tables = []
        for data in (full.microdata, bundled):
            band = np.searchsorted(broad, data.column("age"), side="right")
            state = data.column("state_fips")[data.links["household"]] if len(broad) == 5 else 0
            weight = data.weights[data.links["household"]]
            tables.append(pd.DataFrame({"s": state, "b": band, "w": weight}).groupby(["s", "b"])["w"].sum())
        assert len(tables[0]) == len(broad) * (51 if len(broad) == 5 else 1)
        assert (tables[1] / tables[0] - 1).abs().max() < 0.01
    for item in INPUTS:
        if item.unit == "USD":
            entity = catalogue().get(item.variable).entity
            sums = [
                d.weights[d.household_of[entity]] @ d.column(item.variable).astype(float)
                for d in (full.microdata, bundled)
            ]
            assert sums[1] == pytest.approx(sums[0], rel=0.01), item.variable
    counts = [pd.Series(d.weights).groupby(d.column("state_fips")).sum() for d in (full.microdata, bundled)]
    assert (counts[1] / counts[0] - 1).abs().max() < 0.01


def test_the_tail_is_certain_and_keeps_its_weight(rebuilt, full):
    build, _ = rebuilt
    table = build.households
    own = pd.Series(full.microdata.weights, index=full.microdata.ids["household"])
    tail = table[table["certain"]]
    assert len(tail) > 600
    np.testing.assert_allclose(tail["weight"], own[tail["household_id"]], rtol=1e-6)
    wages = full.microdata.column("employment_income_before_lsr")
    richest = full.microdata.links["household"][np.argmax(wages)]
    assert full.microdata.ids["household"][richest] in set(tail["household_id"])


def test_weights_are_positive_and_near_the_design(rebuilt):
    table = rebuilt[0].households
    assert (table["weight"] > 0).all()
    ratio = table["weight"] / table["design_weight"]
    assert ratio.between(BOUNDS[0] - 0.01, BOUNDS[1] + 0.01).all()
    assert table["state_fips"].nunique() == 51
    assert table.groupby("state_fips").size().min() >= 100


def test_draw_has_the_size_asked_for_and_unbiased_weights():
    rng = np.random.default_rng(0)
    n = 20_000
    weight, state = rng.uniform(1, 9, n), rng.integers(1, 6, n)
    money = rng.lognormal(10, 1, n)
    counts, samples = [], []
    for seed in range(30):
        chosen, design, certain = draw(1_000, weight, state, money, money[:, None], seed)
        assert len(np.unique(chosen)) == 1_000
        np.testing.assert_allclose(design[certain], weight[chosen][certain])
        counts.append(design.sum())
        samples.append(tuple(chosen[~certain]))
    assert len(set(samples)) == 30, "another seed draws other households"
    assert np.mean(counts) == pytest.approx(weight.sum(), rel=0.01)


def test_calibration_meets_totals_within_its_bounds():
    import scipy.sparse as sp

    rng = np.random.default_rng(1)
    measures = sp.csr_matrix(rng.uniform(0, 2, (5, 300)))
    design = rng.uniform(1, 3, 300)
    totals = measures @ design * rng.uniform(0.95, 1.05, 5)
    weights = calibrate(design, measures, totals)
    np.testing.assert_allclose(measures @ weights, totals, rtol=1e-8)
    assert (weights / design).min() >= BOUNDS[0]
    with pytest.raises(InputError, match="cannot meet the totals"):
        calibrate(design, measures, totals * 40)


# Sources and bad input


def test_table_of_sources_has_every_column_of_the_file(source):
    table = pd.read_csv(io.StringIO(BUNDLED.joinpath("cps_2024_sources.csv").read_text("utf-8")))
    assert set(table["policyengine_input"].dropna()) == {i.variable for i in (*INPUTS, *IMPUTED_INPUTS)}
    named = " ".join(table["source_column"])
    spelled = named.replace(",", " ").split()
    bookkeeping = {"a_lineno", "RECID", "FLPDYR", "XTOT", "ffpos", "elderly_dependents"}
    implied = {"nu13", "n24", "nu18", "n1820", "e00200", "e00900", "e02100"}
    assert set(source.columns) - set(spelled) - bookkeeping - implied == set()
    given = table[table["policyengine_input"].notna()]
    assert given["imputed"].isin(["yes", "no"]).all()
    official = given[given["official_total"].notna()]
    assert len(official) >= 15
    assert official["official_source"].notna().all()


@pytest.mark.parametrize("households", [0, -5, 100, 200_577])
def test_an_impossible_number_of_households_is_refused(households):
    with pytest.raises(InputError, match=r"households: .*expected 4,000 to 200,576"):
        build_cps(households=households)


@pytest.mark.parametrize("year", [2012, 2080])
def test_a_year_without_growth_factors_is_refused(year):
    with pytest.raises(InputError, match="year: money cannot be aged to this year"):
        build_cps(households=5_000, year=year)


def test_another_version_of_taxcalc_is_refused(monkeypatch):
    monkeypatch.setattr("distcalib.microdata.cps_source.metadata.version", lambda name: "3.0.0")
    with pytest.raises(InputError, match=r"taxcalc.*'3.0.0'.*6\.8\.0"):
        taxcalc_folder()


def test_a_later_year_ages_the_money_further(full):
    later = build_cps(households=4_000, year=2026).microdata
    wages = [
        d.weights[d.links["household"]] @ d.column("employment_income_before_lsr").astype(float)
        for d in (full.microdata, later)
    ]
    assert 1.04 < wages[1] / wages[0] < 1.15
    assert later.period == 2026
    assert later.count() == 4_000
