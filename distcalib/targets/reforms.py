"""The reforms that targets may ask for: what each leaves out of the tax law.

A target with a reform_id above 0 is a tax expenditure as the Joint Committee on Taxation estimates them: the
income tax with a deduction struck out, minus the income tax as it is. The numbering is that of the databases
that users have; its target names the deduction as its variable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reform:
    """One deduction struck out.

    Attributes
    ----------
    label
        For people.
    variables
        Variables of policyengine-us that are 0 under the reform; the first is the variable of its targets.
    """

    label: str
    variables: tuple[str, ...]


REFORMS: dict[int, Reform] = {
    1: Reform("state and local tax deduction", ("salt_deduction",)),
    2: Reform("medical expense deduction", ("medical_expense_deduction",)),
    3: Reform("charitable deduction", ("charitable_deduction",)),
    4: Reform("mortgage interest deduction", ("deductible_mortgage_interest",)),
    5: Reform("qualified business income deduction", ("qualified_business_income_deduction",)),
}
